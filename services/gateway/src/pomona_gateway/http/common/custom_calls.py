"""Calls of custom tools, whose input is a text instead of an object of arguments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pomona_gateway.generation.chat import ChatDelta, ChatPart, ToolCallDelta
from pomona_gateway.http.common.chat_messages import INPUT, json_text


def custom_input(arguments: Mapping[str, Any]) -> str:
    """Returns the text of a custom tool's call, from its arguments as a function."""
    if not arguments:
        return ""
    given = arguments.get(INPUT, next(iter(arguments.values())))
    return given if isinstance(given, str) else json_text(given)


class CustomCalls:
    """Merges the parts of each call of a custom tool, whose text can only be read as a whole.

    Args:
        names: names of the custom tools.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._open: dict[tuple[int, str], ToolCallDelta] = {}

    def merge(self, delta: ChatDelta) -> ChatDelta:
        """Returns a delta in which calls of custom tools are complete."""
        if not self._names:
            return delta
        parts: list[ChatPart] = []
        for part in delta.parts:
            if not isinstance(part, ToolCallDelta) or part.name not in self._names:
                parts.append(part)
                continue
            key = (delta.index, part.id)
            begun = self._open.pop(key, None)
            arguments = (begun.arguments if begun else "") + part.arguments
            whole = replace(part, arguments=arguments, first=True)
            if part.last:
                parts.append(whole)
            else:
                self._open[key] = whole
        if delta.finish is not None:
            for key in [key for key in self._open if key[0] == delta.index]:
                parts.append(replace(self._open.pop(key), last=True))
        return replace(delta, parts=tuple(parts))
