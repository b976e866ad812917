"""Converts values as models write them to JSON, piece by piece.

Accepts JSON, Python literals (single quotes, ``True``, ``None``), bare keys, trailing commas,
and strings between marks of a model's own, like Gemma 4's ``<|"|>``. JSON comes out as it
went in.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any, Literal

from pomona_gateway.parsers.events import overlap

_WORDS = {"True": "true", "False": "false", "None": "null"}
_WORD = re.compile(r"[^\s,:=(){}\[\]\"'<>]+")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

Expect = Literal["value", "item", "key", "colon", "comma"]


class LooseValue:
    """Reads one value.

    Args:
        string_mark: delimits strings beside the usual quotes; empty for none.
        is_key: the value is a key, which a colon follows.
        typed: returns the value of a string between marks, by the key of the outermost object.

    Attributes:
        done: the value is complete.
        invalid: the text is not a value.
    """

    def __init__(
        self,
        string_mark: str = "",
        is_key: bool = False,
        typed: Callable[[str, str], Any] | None = None,
    ) -> None:
        self.done = False
        self.invalid = False
        self._string_mark = string_mark
        self._is_key = is_key
        self._expect: Expect = "value"
        self._open: list[str] = []
        self._quote = ""
        self._text = ""
        self._comma = ""
        self._typed = typed
        self._member = ""

    def push(self, text: str, final: bool = False) -> tuple[str, str]:
        """Reads more text.

        Args:
            final: no more text follows, so a bare word ends here.

        Returns:
            JSON to add, and the text that is held back, or that follows the value when it is
            done or invalid. The held text must come again with the next call.
        """
        out: list[str] = []
        while text and not (self.done or self.invalid):
            step = self._string if self._quote else self._token
            piece, rest = step(text, final)
            out.append(piece)
            if rest == text:
                break
            text = rest
        return "".join(out), text

    def _token(self, text: str, final: bool) -> tuple[str, str]:
        first = text[0]
        if first.isspace():
            size = len(text) - len(text.lstrip())
            if self._comma:
                self._comma += text[:size]
                return "", text[size:]
            return text[:size] if self._open else "", text[size:]
        if first in "{[":
            if self._expect not in ("value", "item"):
                return self._fail(text)
            before = self._take_comma()
            self._open.append("}" if first == "{" else "]")
            self._expect = "key" if first == "{" else "item"
            return before + first, text[1:]
        if first in "}]":
            return self._close(first, text)
        if first == ",":
            if self._expect != "comma" or not self._open:
                return self._fail(text)
            self._comma = ","
            self._expect = "key" if self._open[-1] == "}" else "item"
            return "", text[1:]
        if first == ":":
            if self._expect != "colon":
                return self._fail(text)
            self._expect = "value"
            return ":", text[1:]
        return self._scalar(text, final)

    def _close(self, first: str, text: str) -> tuple[str, str]:
        allowed = self._expect == "comma" or (self._expect in ("key", "item"))
        if not self._open or self._open[-1] != first or not allowed:
            return self._fail(text)
        self._open.pop()
        # A comma before the closing bracket is not JSON.
        space, self._comma = self._comma[1:], ""
        self._after_value()
        return space + first, text[1:]

    def _scalar(self, text: str, final: bool) -> tuple[str, str]:
        if self._expect not in ("value", "item", "key"):
            return self._fail(text)
        for quote in (self._string_mark, '"', "'"):
            if quote and text.startswith(quote):
                self._quote, self._text = quote, ""
                opening = '"' if quote == '"' else ""
                return self._take_comma() + opening, text[len(quote) :]
        if self._string_mark and self._string_mark.startswith(text) and not final:
            return "", text
        word = _WORD.match(text)
        if word is None:
            return self._fail(text)
        if word.end() == len(text) and not final:
            return "", text
        return self._take_comma() + self._word(word[0]), text[word.end() :]

    def _word(self, word: str) -> str:
        if self._expect == "key":
            self._expect = "colon"
            if len(self._open) == 1:
                self._member = word
            return json.dumps(word, ensure_ascii=False)
        self._after_value()
        word = _WORDS.get(word, word)
        if word in ("true", "false", "null") or _NUMBER.fullmatch(word):
            return word
        return json.dumps(word, ensure_ascii=False)

    def _string(self, text: str, final: bool) -> tuple[str, str]:
        if self._quote == '"':
            return self._json_string(text)
        if self._quote == "'":
            return self._python_string(text, final)
        at = text.find(self._quote)
        if at < 0:
            keep = overlap(text, self._quote)
            self._text += text[: len(text) - keep]
            return "", text[len(text) - keep :]
        value: Any = self._text + text[:at]
        if self._typed is not None and self._expect == "value" and len(self._open) == 1:
            value = self._typed(self._member, value)
        written = json.dumps(value, ensure_ascii=False)
        text = text[at + len(self._quote) :]
        self._end_string()
        return written, text

    def _json_string(self, text: str) -> tuple[str, str]:
        plain = _PLAIN.match(text)
        if plain is not None:
            return plain[0], text[plain.end() :]
        if text[0] == '"':
            self._end_string()
            return '"', text[1:]
        if text[0] == "\\":
            if len(text) < 2:
                return "", text
            # JSON has no escape of a single quote, which models write all the same.
            return ("'" if text[1] == "'" else text[:2]), text[2:]
        escaped = _CONTROL.get(text[0]) or f"\\u{ord(text[0]):04x}"
        return escaped, text[1:]

    def _python_string(self, text: str, final: bool) -> tuple[str, str]:
        """Ends the string at a quote that something may follow: templates write the
        content as it is."""
        if self._expect == "key" or (self._is_key and not self._open):
            followers = ":"
        else:
            followers = "," + (self._open[-1] if self._open else ")}]")
        ends = list(re.finditer(r"(?:[^'\\]|\\.)*?'", text, re.DOTALL))
        for end in ends:
            rest = text[end.end() :].lstrip()
            if not rest and not final:
                return "", text
            if not rest or rest[0] in followers:
                return self._python_value(text[: end.end() - 1]), text[end.end() :]
        if final and ends:
            return self._python_value(text[: ends[0].end() - 1]), text[ends[0].end() :]
        return "", text

    def _python_value(self, inner: str) -> str:
        escaped = re.sub(r"(\\.)|'", lambda found: found[1] or "\\'", inner, flags=re.DOTALL)
        try:
            value = ast.literal_eval(f"'{escaped}'".replace("\n", "\\n").replace("\r", "\\r"))
        except (ValueError, SyntaxError, Warning):
            value = inner
        self._end_string()
        return json.dumps(value, ensure_ascii=False)

    def _end_string(self) -> None:
        self._quote = self._text = ""
        if self._expect == "key":
            self._expect = "colon"
        else:
            self._after_value()

    def _after_value(self) -> None:
        self._expect = "comma"
        self.done = not self._open

    def _take_comma(self) -> str:
        comma, self._comma = self._comma, ""
        return comma

    def _fail(self, text: str) -> tuple[str, str]:
        self.invalid = True
        return "", text
