"""Reads a call as Python has it: ``name(key="text", other=3)``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, cast

from pomona_gateway.parsers.events import Part, ToolCallArguments, ToolCallStart
from pomona_gateway.parsers.loose_json import LooseValue
from pomona_gateway.parsers.typed_values import property_schema, retyped, typed_value

_KEY = re.compile(r"\s*+([\w.-]+)\s*+=(?!=)\s*+")
_KEY_BEGIN = re.compile(r"\s*+[\w.-]*+\s*+=?\Z")
_SPACE = re.compile(r"[\s,]*+")
_STRING = re.compile(r"[rRfFbBuU]?('''|\"\"\"|'|\")")
_STRING_BEGIN = re.compile(r"[rRfFbBuU]?['\"]{0,2}\Z")
_CALL_END = r",?\s*+\)\s*+(?:[\],;<`]|[\w.]++\("
_NEXT = r",\s*+[\w.-]++\s*+=(?!=)"
_AFTER_VALUE = re.compile(rf"\s*+(?:,?\s*+[\w.-]++\s*+=(?!=)|{_CALL_END}))")
"""Text after a value: another argument, or the end of the call and text that may follow it."""
_AFTER_LAST_VALUE = re.compile(rf"\s*+(?:,?\s*+[\w.-]++\s*+=(?!=)|{_CALL_END}|\Z))")
_MAY_FOLLOW = re.compile(r"\s*+,?\s*+(?:[\w.-]*+\s*+=?|\)\s*+[\w.]*+)\Z")
"""The beginning of text that may follow a value."""
_BARE_END = re.compile(rf"(?={_NEXT}|{_CALL_END}))")
_LAST_BARE_END = re.compile(rf"(?={_NEXT}|{_CALL_END}|\Z))")


class KeywordCall:
    """A call from after the opening parenthesis.

    Accepts what templates and models write beside valid Python: quotes inside strings that are
    not escaped, strings without quotes, missing commas, and values without a key, which take the
    keys of the schema in order. Values take the type of their schema.

    Args:
        schema: of the arguments; empty when it is unknown.
    """

    def __init__(self, name: str, schema: Mapping[str, Any] | None = None) -> None:
        self.done = self.failed = False
        self._schema = schema or {}
        listed = self._schema.get("properties")
        self._properties = list(cast("dict[str, Any]", listed)) if isinstance(listed, dict) else []
        self._start: list[Part] = [ToolCallStart(name)]
        self._keys: list[str] = []
        self._key = ""
        self._value: LooseValue | None = None

    def push(self, text: str, final: bool) -> tuple[list[Part], str]:
        parts, self._start = self._start, []
        out = ""
        while not (self.done or self.failed):
            piece, rest = self._step(text, final)
            out += piece
            if rest == text:
                break
            text = rest
        if out:
            parts.append(ToolCallArguments(out, self.done))
        return parts, text

    def _step(self, text: str, final: bool) -> tuple[str, str]:
        """Reads one part. Returns JSON to add and the rest; the same text when more is needed."""
        if self._value is not None:
            return self._read_value(self._value, text, final)
        if self._key:
            return self._begin_value(text, final)
        space = _SPACE.match(text)
        text = text[space.end() :] if space else text
        if text.startswith(")"):
            self.done = True
            return "}" if self._keys else "{}", text[1:]
        key = _KEY.match(text)
        if key is not None and (key.end() < len(text) or final):
            return self._begin_member(key[1]), text[key.end() :]
        if not text or (_KEY_BEGIN.match(text) and not final):
            return "", text
        missing = next((x for x in self._properties if x not in self._keys), "")
        if missing and key is None and (text[0] in "'\"[{-" or text[0].isdigit()):
            return self._begin_member(missing), text
        self.failed = True
        return "", text

    def _begin_member(self, key: str) -> str:
        before = ", " if self._keys else "{"
        self._keys.append(key)
        self._key = key
        return f"{before}{json.dumps(key, ensure_ascii=False)}: "

    def _begin_value(self, text: str, final: bool) -> tuple[str, str]:
        if text[:1] in ("[", "{"):
            self._value = LooseValue()
            return self._read_value(self._value, text, final)
        quoted = _STRING.match(text)
        if not final and _STRING_BEGIN.match(text):
            return "", text
        found = self._string_end(text, quoted, final) if quoted else self._bare_end(text, final)
        if found is None:
            return "", text
        value, size = found
        self._key = ""
        return json.dumps(value, ensure_ascii=False), text[size:]

    def _read_value(self, value: LooseValue, text: str, final: bool) -> tuple[str, str]:
        piece, rest = value.push(text, final)
        self.failed = value.invalid
        if value.done:
            self._value, self._key = None, ""
        return piece, rest

    def _string_end(self, text: str, opening: re.Match[str], final: bool) -> tuple[Any, int] | None:
        """Finds the quote that ends a string: the first one that something may follow."""
        quote = opening[1]
        start = opening.end()
        follows = _AFTER_LAST_VALUE if final else _AFTER_VALUE
        first: int | None = None
        for found in re.finditer(rf"\\.|{re.escape(quote)}", text[start:], re.DOTALL):
            if found[0] != quote:
                continue
            at = start + found.start()
            end = at + len(quote)
            first = at if first is None else first
            if follows.match(text, end):
                return self._string(text[start:at], quote), end
            if not final and _MAY_FOLLOW.match(text, end):
                return None
        if not final or first is None:
            return None
        return self._string(text[start:first], quote), first + len(quote)

    def _string(self, inner: str, quote: str) -> Any:
        mark = quote[0]
        if "\n" in inner and len(quote) == 1:
            # Python escapes line ends, so nothing here is escaped.
            return retyped(inner, property_schema(self._schema, self._key), self._schema)
        escaped = re.sub(rf"(\\.)|{mark}", lambda x: x[1] or f"\\{mark}", inner, flags=re.DOTALL)
        source = f"{mark}{escaped}{mark}".replace("\n", "\\n").replace("\r", "\\r")
        try:
            value = ast.literal_eval(source)
        except (ValueError, SyntaxError, Warning):
            value = inner
        return retyped(value, property_schema(self._schema, self._key), self._schema)

    def _bare_end(self, text: str, final: bool) -> tuple[Any, int] | None:
        """Finds the end of a value without quotes."""
        others = "|".join(re.escape(x) for x in self._properties if x not in self._keys)
        joined = rf"(?:-?[\d.]+|[Tt]rue|[Ff]alse|[Nn]one|null)(?=(?:{others})\s*=(?!=))"
        literal = re.match(joined, text) if others else None
        ended = literal or (_LAST_BARE_END if final else _BARE_END).search(text)
        if ended is None and not final:
            return None
        size = (ended.end() if literal else ended.start()) if ended else len(text)
        return typed_value(
            text[:size], property_schema(self._schema, self._key), self._schema
        ), size
