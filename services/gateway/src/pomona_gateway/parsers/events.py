"""The parts of a reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call begins. Its arguments come next."""

    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More arguments of the call that began last; together they are a JSON object as text.

    ``last``: they are complete. A reply that ends early leaves its last call without that.
    """

    text: str
    last: bool = False


Part: TypeAlias = TextDelta | ReasoningDelta | ToolCallStart | ToolCallArguments


class ReplyReader(Protocol):
    """Reads one reply as it comes. Text that may be the begin of a mark is held back."""

    @property
    def thinking(self) -> bool:
        """Whether what comes now is reasoning."""
        ...

    def push(self, text: str) -> list[Part]:
        """What the text adds."""
        ...

    def finish(self) -> list[Part]:
        """What was held back, at the end of the reply. Nothing is ever lost: what looks
        like a call but cannot be read as one is said."""
        ...


def overlap(text: str, mark: str) -> int:
    """The longest end of ``text`` that is a begin of ``mark``, but not all of it."""
    longest = min(len(mark) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)
