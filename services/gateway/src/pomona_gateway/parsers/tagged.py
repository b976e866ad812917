"""Replies in which marks set reasoning and tool calls apart from text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pomona_gateway.parsers.call_stream import CallForm, CallStream
from pomona_gateway.parsers.events import Part, ReasoningDelta, TextDelta, overlap
from pomona_gateway.parsers.notations import CallNotation
from pomona_gateway.parsers.tool_calls import CallReader, Schemas


@dataclass(frozen=True, slots=True)
class CallMarks:
    """Where a tool call begins and ends. ``close`` empty: at the end of the reply.

    Attributes:
        form: how calls look, read as they come; ``read`` reads what looks otherwise.
        notation: how a grammar writes them.
        bare: a reply that begins like a JSON object is a call too, without marks.
    """

    open: str
    close: str
    form: CallForm
    read: CallReader
    notation: CallNotation
    bare: bool = False


class TaggedParser:
    """Reads one reply.

    Args:
        thought: the marks around reasoning, or None.
        calls: the marks around calls; None when the request gave no tools.
        thinking: the prompt already opened the reasoning.
    """

    def __init__(
        self,
        thought: tuple[str, str] | None,
        calls: CallMarks | None,
        schemas: Schemas,
        thinking: bool,
    ) -> None:
        self._thought = thought
        self._calls = calls
        self._schemas = schemas
        self._state: Literal["text", "thought", "call"] = "thought" if thinking else "text"
        self._stream: CallStream | None = None
        self._held = ""
        self._opened = ""
        self._fresh = True
        self._begun = False

    @property
    def thinking(self) -> bool:
        return self._state == "thought"

    def push(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        parts = self.push("")
        held, self._held = self._held, ""
        if self._state == "call":
            parts += self._close(held, "")
        else:
            self._emit(parts, held)
        return parts

    def _step(self, parts: list[Part]) -> bool:
        """Take what is certain from the held text; True when another mark may follow."""
        if self._bare_call():
            self._open("")
        if self._stream is not None:
            self._held = self._stream.take(self._held, parts)
            if self._stream.inside:
                return False
        marks = self._marks()
        found = [(at, mark) for mark in marks if (at := self._held.find(mark)) >= 0]
        if not found:
            if self._state == "call":
                return False
            keep = max((overlap(self._held, mark) for mark in marks), default=0)
            if self._may_be_bare():
                keep = len(self._held)
            cut = len(self._held) - keep
            before, self._held = self._held[:cut], self._held[cut:]
            self._emit(parts, before)
            return False
        at, mark = min(found)
        before, self._held = self._held[:at], self._held[at + len(mark) :]
        self._turn(parts, before, mark)
        return True

    def _turn(self, parts: list[Part], before: str, mark: str) -> None:
        if self._state == "call":
            parts += self._close(before, mark)
        else:
            self._emit(parts, before)
            if self._calls is not None and mark == self._calls.open:
                self._open(mark)
            else:
                opens_thought = self._thought is not None and mark == self._thought[0]
                self._state = "thought" if opens_thought else "text"
        self._opened = mark
        self._fresh = True

    def _open(self, mark: str) -> None:
        assert self._calls is not None
        self._state, self._opened = "call", mark
        self._stream = CallStream(self._calls.form, self._calls.read, self._schemas)

    def _close(self, text: str, mark: str) -> list[Part]:
        """The end of the calls. ``mark``: what ended them."""
        assert self._stream is not None
        found = self._stream.close(text)
        self._state, self._stream = "text", None
        self._begun = True
        return [TextDelta(f"{self._opened}{text}{mark}")] if found is None else found

    def _marks(self) -> list[str]:
        if self._state == "call":
            close = self._calls.close if self._calls and self._opened else ""
            return [close] if close else []
        if self._state == "thought":
            return [self._thought[1]] if self._thought else []
        opening = [self._thought[0]] if self._thought else []
        return [*opening, self._calls.open] if self._calls else opening

    def _emit(self, parts: list[Part], text: str) -> None:
        if self._fresh:
            text = text.lstrip() if self._opened or self._state == "thought" else text
        if not text:
            return
        self._fresh = False
        self._begun = self._begun or self._state == "text"
        parts.append(ReasoningDelta(text) if self._state == "thought" else TextDelta(text))

    def _may_be_bare(self) -> bool:
        """Nothing but space came yet, so a bare call may follow."""
        waits = self._calls is not None and self._calls.bare and not self._begun
        return waits and self._state == "text" and not self._held.strip()

    def _bare_call(self) -> bool:
        bare = self._calls is not None and self._calls.bare and not self._begun
        return bare and self._state == "text" and self._held.lstrip().startswith("{")
