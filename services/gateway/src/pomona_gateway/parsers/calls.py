"""Readers of one tool call, one for each style of calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, Protocol, cast

from pomona_gateway.parsers.events import Part, Schemas, ToolCallArguments, ToolCallStart
from pomona_gateway.parsers.loose_json import LooseValue
from pomona_gateway.parsers.typed_values import property_schema, retyped

_NAMES = frozenset({"name", "tool_name", "function", "tool", "function_name"})
_ARGUMENTS = frozenset({"arguments", "parameters", "args", "input", "params"})


class CallReader(Protocol):
    """Reads one call as it comes.

    Attributes:
        done: the call is complete.
        failed: the text is not a call.
    """

    done: bool
    failed: bool

    def push(self, text: str, final: bool) -> tuple[list[Part], str]:
        """Reads more text. Returns events, and the text that is held back or not read.

        Args:
            final: no more text follows.
        """
        ...


class JsonCall:
    """A call whose name stands before its arguments, which are one JSON object.

    Args:
        string_mark: delimits strings beside the usual quotes.
        schema: types the values that stand between marks.
    """

    def __init__(
        self, name: str, string_mark: str = "", schema: Mapping[str, Any] | None = None
    ) -> None:
        self.done = self.failed = False
        self._start: list[Part] = [ToolCallStart(name)]
        own = schema or {}

        def typed(key: str, text: str) -> Any:
            return retyped(text, property_schema(own, key), own)

        self._value = LooseValue("" if string_mark == '"' else string_mark, typed=typed)

    def push(self, text: str, final: bool) -> tuple[list[Part], str]:
        parts, self._start = self._start, []
        piece, rest = self._value.push(text, final)
        self.done, self.failed = self._value.done, self._value.invalid
        if piece or self.done:
            parts.append(ToolCallArguments(piece, self.done))
        return parts, rest


class ObjectCall:
    """A call that is one JSON object: ``{"name": ..., "arguments": {...}}`` in any order, with
    any further keys, or ``{NAME: {...}}``.

    Args:
        known_only: an object that names none of the tools is not a call.
    """

    def __init__(self, schemas: Schemas, known_only: bool) -> None:
        self.done = self.failed = False
        self._schemas = schemas
        self._known_only = known_only
        self._state: Literal["open", "key", "colon", "value", "comma"] = "open"
        self._value = LooseValue(is_key=True)
        self._out = ""
        self._key = ""
        self._name = ""
        self._found: dict[str, str] = {}
        self._streams = False
        self._called = False
        self._raw = ""

    def push(self, text: str, final: bool) -> tuple[list[Part], str]:
        parts: list[Part] = []
        while not (self.done or self.failed):
            rest = self._step(parts, text, final)
            self._raw += text[: len(text) - len(rest)]
            if rest == text:
                break
            text = rest
        if final and not self.done and not self._called:
            self._conclude(parts, cut=True)
        if self.failed:
            return parts, self._raw + text
        return parts, text

    def _step(self, parts: list[Part], text: str, final: bool) -> str:
        if self._state == "value":
            return self._read_value(parts, text, final)
        text = text.lstrip() if self._state != "open" else text
        if not text:
            return text
        if self._state == "key" and text[0] not in "},":
            piece, rest = self._value.push(text, final)
            self._out += piece
            if self._value.invalid:
                return self._fail(text)
            if self._value.done:
                self._key, self._out = str(_loads(self._out)), ""
                self._state, self._value = "colon", LooseValue()
            return rest
        return self._punctuation(parts, text)

    def _punctuation(self, parts: list[Part], text: str) -> str:
        match self._state, text[0]:
            case "open", "{":
                self._state = "key"
            case "colon", ":":
                self._state = "value"
            case "key" | "comma", ",":
                self._state, self._value = "key", LooseValue(is_key=True)
            case "key" | "comma", "}":
                self._conclude(parts, cut=False)
            case _:
                return self._fail(text)
        return text[1:]

    def _read_value(self, parts: list[Part], text: str, final: bool) -> str:
        if not self._out and not self._streams:
            text = text.lstrip()
            if text.startswith("{") and not self._called:
                self._begin(parts)
                if self.failed:
                    return text
        piece, rest = self._value.push(text, final)
        if self._value.invalid:
            return self._fail(text)
        done = self._value.done
        if self._streams:
            if piece or done:
                parts.append(ToolCallArguments(piece, done))
        else:
            self._out += piece
        if done:
            if not self._streams:
                self._found.setdefault(self._key, self._out)
                if self._key in _NAMES and isinstance(name := _loads(self._out), str):
                    self._name = name
            self._state, self._value = "comma", LooseValue()
            self._streams, self._out = False, ""
        return rest

    def _begin(self, parts: list[Part]) -> None:
        """Starts the call when the value that comes is its arguments."""
        name = self._name if self._key in _ARGUMENTS else ""
        if not self._name and not self._found and self._key in self._schemas:
            name = self._key
        if not name:
            return
        if self._known_only and name not in self._schemas:
            self.failed = True
            return
        parts.append(ToolCallStart(name))
        self._streams = self._called = True

    def _conclude(self, parts: list[Part], cut: bool) -> None:
        """Ends the object. Its call may have been impossible to tell before."""
        self.done = not cut
        if self._called:
            return
        call = _whole_call({key: _loads(text) for key, text in self._found.items()})
        known = call is not None and call[0] in self._schemas
        if call is None or ((self._known_only or cut) and not known):
            self.done, self.failed = False, True
            return
        written = json.dumps(call[1], ensure_ascii=False)
        parts += [ToolCallStart(call[0]), ToolCallArguments(written, last=True)]
        self.done = self._called = True

    def _fail(self, text: str) -> str:
        """Gives up. A call whose arguments are complete stands."""
        self.done = self._called and not self._streams
        self.failed = not self.done
        if self._called:
            self._raw = ""
        return text


def _whole_call(found: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Finds name and arguments in the members of an object."""
    nested = found.get("function")
    if isinstance(nested, dict):
        found = cast("dict[str, Any]", nested)
    names = [found[key] for key in found if key in _NAMES and isinstance(found[key], str)]
    if not names or not names[0]:
        return None
    arguments = next((found[key] for key in found if key in _ARGUMENTS), {})
    if isinstance(arguments, str):
        arguments = _loads(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return None
    return names[0], cast("dict[str, Any]", arguments)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
