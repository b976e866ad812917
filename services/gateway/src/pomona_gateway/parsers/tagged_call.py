"""Reads a call whose arguments stand one after the other between tags."""

from __future__ import annotations

import json
import re
from typing import Any

from pomona_gateway.parsers.events import Part, Schemas, ToolCallArguments, ToolCallStart, overlap
from pomona_gateway.parsers.notation import (
    KEY_SLOT,
    CallNotation,
    FieldNotation,
    literal_pattern,
    longest_partial,
    tags,
)
from pomona_gateway.parsers.typed_values import property_schema, typed_value

MAX_TAG = 200
"""Characters of the longest tag that begins an argument."""
_CDATA = re.compile(r"\s*+<!\[CDATA\[(.*)\]\]>\s*+", re.DOTALL)
_KEY = r"(?P<key>[^\s<>\"'=/][^<>\n\"]*?)"


class FieldForm:
    """The patterns of one notation's tagged arguments."""

    def __init__(self, notation: CallNotation, fields: FieldNotation, openers: str) -> None:
        middles = [fields.middle, fields.other_middle] if fields.other_middle else [fields.middle]
        # White space after the tag belongs to the value.
        middle = "|".join(literal_pattern(x.rstrip()) for x in middles)
        loose = (
            re.escape(fields.middle.strip()[:1])
            + r"[^<>\n]*?"
            + re.escape(_last_tag(fields.middle))
        )
        self.fields = fields
        self.begin = re.compile(
            f"{literal_pattern(fields.before)}{_KEY}(?P<middle>{middle}|{loose})"
        )
        self.begin_text = fields.before.strip()
        self.tail = notation.tail.strip()
        whole = f"{notation.tail}{notation.closing}"
        tail = literal_pattern(notation.tail) if self.tail else ""
        closing = literal_pattern(notation.closing) if notation.closing.strip() else ""
        single = [x for x in tags(notation.tail) if x.startswith("<") and x not in fields.before]
        self.ends = [x for x in (tail, closing, *map(literal_pattern, single)) if x]
        self.end = re.compile(r"\s*+(?:" + "|".join(self.ends or [r"\Z"]) + ")")
        self.exact_ends = tuple(
            f"{fields.after}{x}" for x in {whole, notation.tail} if "\n" in f"{fields.after}{x}"
        )
        # What may come after a call: nothing, the end of all calls, or another one.
        after = "|".join([*([closing] if closing else []), *([openers] if openers else [])])
        self.next = re.compile(rf"\s*+(?:{after})" if after else r"(?!)")
        self.starts = tuple(
            x for x in (self.begin_text, self.tail, notation.closing.strip(), *single) if x
        )


def _last_tag(middle: str) -> str:
    last = tags(middle)[-1]
    return last if last.startswith("<") or not last.endswith(">") else ">"


class TaggedCall:
    """One call, from after the tag that has its name."""

    def __init__(self, form: FieldForm, schemas: Schemas, name: str) -> None:
        self.done = self.failed = False
        self._form = form
        self._schema = schemas.get(name, {})
        self._start: list[Part] = [ToolCallStart(name)]
        self._keys: list[str] = []
        self._judged = 0
        """Where to go on in the value: closing tags before it are text."""

    def push(self, text: str, final: bool) -> tuple[list[Part], str]:
        parts, self._start = self._start, []
        out = ""
        while not self.done:
            begin = self._form.begin.match(text.lstrip())
            if begin is None:
                break
            skipped = len(text) - len(text.lstrip())
            value_at = skipped + begin.end()
            found = self._value_end(text[value_at:], begin["key"], final)
            if found is None:
                break
            value, size = found
            self._judged = 0
            out += self._member(begin["key"], value, begin["middle"])
            text = text[value_at + size :]
        else:
            return parts, text
        if final or self._ends(text):
            out += "}" if self._keys else "{}"
            self.done = True
        if out:
            parts.append(ToolCallArguments(out, self.done))
        return parts, text

    def _ends(self, text: str) -> bool:
        """Returns True when the text that comes is not an argument."""
        rest = text.lstrip()
        if not rest or longest_partial(rest, self._form.starts):
            return False
        # An argument's own tag waits for its end.
        return not rest.startswith(self._form.begin_text) or self._form.end.match(rest) is not None

    def _value_end(self, text: str, key: str, final: bool) -> tuple[str, int] | None:
        """Finds the end of a value.

        Returns the value and its length with the closing tag; None while
        that is not certain.
        """
        close = self._form.fields.after.replace(KEY_SLOT, key)
        core = close.strip()
        if not final and not any(mark in text for mark in (core, *self._form.starts)):
            return None
        unclosed = self._next_argument(text, key)
        weak: tuple[str, int] | None = None
        at = text.find(core, self._judged)
        while at >= 0 and (unclosed is None or at < unclosed):
            end = at + len(core)
            verdict = self._closes(text, at, end, close, final)
            if verdict is None:
                return None
            if verdict == "closes":
                return self._trimmed(text[:at], close), end
            if verdict == "text" and weak is None:
                self._judged = at + 1
            if verdict == "weak" and weak is None:
                weak = self._trimmed(text[:at], close), end
            at = text.find(core, at + 1)
        if unclosed is not None:
            return self._trimmed(text[:unclosed], close), unclosed
        return self._last_resort(text, close, core, weak, final)

    def _closes(self, text: str, at: int, end: int, close: str, final: bool) -> str | None:
        """Judges a closing tag by what follows: ``closes``, ``weak`` or ``text``; None when
        that is not here yet."""
        form = self._form
        rest = text[end:]
        if form.begin.match(rest.lstrip()):
            return "closes"
        stripped = rest.lstrip()
        if not stripped or longest_partial(stripped, form.starts):
            return "closes" if final else None
        ended = form.end.match(rest)
        if ended is None:
            begins = stripped.startswith(form.begin_text) and len(stripped) < MAX_TAG
            return None if begins and not final else "text"
        behind = text[max(at - 1, 0) :] if close.startswith("\n") else text[at:]
        if any(behind.startswith(exact) for exact in form.exact_ends):
            return "closes"
        after = rest[ended.end() :]
        if not after.strip():
            return "closes" if final else None
        return "closes" if form.next.match(after) or form.end.match(after) else "weak"

    def _next_argument(self, text: str, key: str) -> int | None:
        """Finds where another argument begins though this one was not closed."""
        properties = self._schema.get("properties")
        known = properties if isinstance(properties, dict) else {}
        lines = "\n" in self._form.fields.before + self._form.fields.after
        for found in self._form.begin.finditer(text, max(self._judged - MAX_TAG, 0)):
            other = found["key"]
            if other == key or other in self._keys or (known and other not in known):
                continue
            before = text[: found.start()].rstrip(" \t")
            gap = found[0][: len(found[0]) - len(found[0].lstrip())]
            at_line_start = before.endswith("\n") or "\n" in gap or not before
            if at_line_start or (known and not lines):
                return found.start()
        return None

    def _last_resort(
        self, text: str, close: str, core: str, weak: tuple[str, int] | None, final: bool
    ) -> tuple[str, int] | None:
        """The end of a value that has no closing tag, when that is certain."""
        ends = "".join(f"(?:{end})?" for end in self._form.ends)
        if not final:
            for ended in self._form.end.finditer(text, max(self._judged - MAX_TAG, 0)):
                if ended[0].strip() and self._form.next.match(text, ended.end()):
                    return weak or (self._trimmed(text[: ended.start()], close), ended.start())
            return None
        if weak is not None:
            return weak
        ended = re.search(rf"\s*+{ends}\s*+\Z", text)
        size = ended.start() if ended else len(text)
        value = text[:size]
        cut = overlap(value, core)
        return self._trimmed(value[: len(value) - cut] if cut > 1 else value, close), size

    def _trimmed(self, value: str, close: str) -> str:
        if self._form.fields.middle.endswith("\n"):
            value = value.removeprefix("\n")
        if close.startswith("\n"):
            value = value.removesuffix("\n")
        return value

    def _member(self, key: str, text: str, middle: str) -> str:
        fields = self._form.fields
        schema = property_schema(self._schema, key)
        is_string = None
        if fields.cdata and (held := _CDATA.fullmatch(text)):
            text, is_string = held[1], True
        if fields.item:
            value = nested_value(text, fields, schema, self._schema)
        else:
            if fields.quoted and text.lstrip().startswith('"'):
                is_string, schema = False, {}
            elif fields.other_middle:
                is_string = "".join(middle.split()) == "".join(fields.middle.split())
            value = typed_value(text, schema, self._schema, is_string)
        before = ", " if self._keys else "{"
        self._keys.append(key)
        written = json.dumps(value, ensure_ascii=False)
        return f"{before}{json.dumps(key, ensure_ascii=False)}: {written}"


def nested_value(text: str, fields: FieldNotation, schema: Any, root: Any) -> Any:
    """Reads a value whose members and items have tags of their own."""
    members: list[tuple[str, str]] = []
    rest = text.strip()
    while rest.startswith(fields.before.strip()):
        begin = re.match(literal_pattern(fields.before) + _KEY + re.escape(fields.middle), rest)
        if begin is None:
            break
        close = fields.after.replace(KEY_SLOT, begin["key"])
        end = rest.find(close, begin.end())
        if end < 0:
            break
        members.append((begin["key"], rest[begin.end() : end]))
        rest = rest[end + len(close) :].lstrip()
    if not members or rest:
        return typed_value(text, schema, root)
    if all(key == fields.item for key, _ in members):
        own = schema.get("items") if isinstance(schema.get("items"), dict) else {}
        return [nested_value(inner, fields, own, root) for _, inner in members]
    return {
        key: nested_value(inner, fields, property_schema(schema, key), root)
        for key, inner in members
    }
