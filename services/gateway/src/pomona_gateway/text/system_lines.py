"""Keeps lines that differ at each request from costing the whole prefix cache. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_LINE = 1000
"""Length of the longest line that is compared with the patterns, in characters."""
DROPPED = (r"x-anthropic-billing-header:.*",)
"""Headers that clients put into the system prompt for their own server."""
MOVED = (
    r"(?i)\W*(the )?(current|today's|local) (date|time|date and time|time and date)\b.*"
    r"\d{1,2}:\d{2}.*",
)
"""Lines with a time of day."""


@dataclass(frozen=True, slots=True)
class SystemLines:
    """Regular expressions for whole lines of system messages.

    Attributes:
        dropped: lines to leave out.
        moved: lines to move behind the stable ones.
    """

    dropped: tuple[str, ...] = DROPPED
    moved: tuple[str, ...] = MOVED

    def stabilise(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Returns the messages with matching lines of system messages left out or moved.

        Lines are moved to the last message of the user or of a tool. Without one they stay.
        """
        last = max((i for i, x in enumerate(messages) if x.get("role") in _TARGETS), default=-1)
        out: list[Mapping[str, Any]] = []
        moved: list[str] = []
        target = -1
        for index, message in enumerate(messages):
            content = message.get("content")
            if message.get("role") in _SYSTEM and isinstance(content, str):
                kept: list[str] = []
                for line in content.split("\n"):
                    if _matches(self.dropped, line):
                        continue
                    found = last >= 0 and _matches(self.moved, line)
                    (moved if found else kept).append(line)
                text = "\n".join(kept)
                if text != content:
                    if not text.strip():
                        continue
                    message = {**message, "content": text.strip("\n")}
            if index == last:
                target = len(out)
            out.append(message)
        if moved:
            text = "\n\n".join([str(out[target].get("content") or ""), "\n".join(moved)])
            out[target] = {**out[target], "content": text}
        return out


DEFAULT_LINES = SystemLines()
_SYSTEM = ("system", "developer")
_TARGETS = ("user", "tool")


def _matches(patterns: Sequence[str], line: str) -> bool:
    return len(line) <= MAX_LINE and any(re.fullmatch(pattern, line) for pattern in patterns)
