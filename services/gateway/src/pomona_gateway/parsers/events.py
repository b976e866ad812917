"""Events that a reply reader produces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """The begin of a tool call. Its arguments come next."""

    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """Arguments of the call that began last; concatenated they are a JSON object as text.

    ``last``: they are complete. A reply that ends early leaves its last call without that.
    """

    text: str
    last: bool = False


Part: TypeAlias = TextDelta | ReasoningDelta | ToolCallStart | ToolCallArguments

Schemas: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The JSON Schema of each tool's parameters, by the tool's name."""


class ReplyReader(Protocol):
    """Reads one reply as it comes. Text that may be the begin of a mark is held back."""

    @property
    def thinking(self) -> bool:
        """True while the reply is inside its reasoning."""
        ...

    def push(self, text: str) -> list[Part]:
        """Reads more text and returns the events that are certain."""
        ...

    def finish(self, cut: bool = False) -> list[Part]:
        """Returns the events of the text held back, at the end of the reply. Text that looks
        like a call but cannot be read as one becomes a :class:`TextDelta`.

        Args:
            cut: a token limit ended the reply, so the beginning of a call or of a mark at its
                end is dropped.
        """
        ...


def overlap(text: str, mark: str) -> int:
    """Length of the longest suffix of ``text`` that is a proper prefix of ``mark``."""
    longest = min(len(mark) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)
