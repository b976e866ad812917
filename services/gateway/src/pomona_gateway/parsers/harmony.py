"""Reads replies in the Harmony format of gpt-oss
(https://cookbook.openai.com/articles/openai-harmony)."""

from __future__ import annotations

import re

from pomona_gateway.parsers.calls import JsonCall
from pomona_gateway.parsers.events import (
    Part,
    ReasoningDelta,
    Schemas,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
    overlap,
)
from pomona_gateway.parsers.notation import HARMONY_MARKS

_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([\w.:-]+)")
_HEADER_BEGIN = re.compile(r"\s*(?:assistant\b.*|to?|to=.*|<.*)\Z", re.DOTALL)
_ASSISTANT = "<|start|>assistant"


class HarmonyReader:
    """Reads one reply: messages, each with a header that says what its body is.

    Args:
        schemas: parameter schemas by tool name.
        prompt: the rendered prompt, which may have begun the first header.
    """

    def __init__(self, schemas: Schemas, prompt: str) -> None:
        self._schemas = schemas
        self._in_header = True
        self._channel = ""
        self._recipient = ""
        self._call: JsonCall | None = None
        self._called = False
        self._held = ""
        begun = prompt.rpartition(_ASSISTANT)[2] if _ASSISTANT in prompt else ""
        if begun.endswith("<|message|>") and begun.count("<|message|>") == 1:
            self._held = begun

    @property
    def thinking(self) -> bool:
        return not self._in_header and self._channel == "analysis" and not self._recipient

    def push(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while self._read_header() if self._in_header else self._read_body(parts):
            pass
        return parts

    def finish(self, cut: bool = False) -> list[Part]:
        parts = self.push("")
        held, self._held = self._held, ""
        if not self._in_header and self._call is not None:
            events, _ = self._call.push(held, True)
            parts += events
        elif not self._in_header:
            self._end(parts, held)
        elif cut and _HEADER_BEGIN.match(held):
            pass
        elif held.strip() and not any(mark in held for mark in HARMONY_MARKS):
            parts.append(TextDelta(held))
        return parts

    def _read_header(self) -> bool:
        before, mark, after = self._held.partition("<|message|>")
        if not mark:
            return False
        channel, recipient = _CHANNEL.search(before), _RECIPIENT.search(before)
        self._channel = channel[1] if channel else "final"
        self._in_header, self._held = False, after
        self._call, self._called = None, False
        self._recipient = self._tool_name(recipient[1]) if recipient else ""
        return True

    def _tool_name(self, recipient: str) -> str:
        return recipient if recipient in self._schemas else recipient.removeprefix("functions.")

    def _read_body(self, parts: list[Part]) -> bool:
        if self._recipient and not self._called:
            self._held = self._held.lstrip()
            if self._held.startswith("{"):
                # A mark inside of the arguments' strings ends nothing.
                self._call, self._called = JsonCall(self._recipient), True
        if self._call is not None:
            events, self._held = self._call.push(self._held, False)
            parts += events
            if not (self._call.done or self._call.failed):
                return False
            self._call = None
        found = [(at, mark) for mark in _ENDS if (at := self._held.find(mark)) >= 0]
        if not found:
            if not self._recipient:
                cut = len(self._held) - max(overlap(self._held, mark) for mark in _ENDS)
                self._say(parts, self._held[:cut])
                self._held = self._held[cut:]
            return False
        at, mark = min(found)
        before, self._held = self._held[:at], self._held[at + len(mark) :]
        self._end(parts, before)
        return True

    def _say(self, parts: list[Part], text: str) -> None:
        if text:
            parts.append(ReasoningDelta(text) if self._channel == "analysis" else TextDelta(text))

    def _end(self, parts: list[Part], rest: str) -> None:
        """Ends a message, with what of its body is not read yet."""
        self._in_header = True
        if not self._recipient:
            self._say(parts, rest)
        elif rest.strip() and not any(mark.startswith(rest.strip()) for mark in _ENDS):
            parts.append(TextDelta(rest))
        elif not self._called:
            parts += [ToolCallStart(self._recipient), ToolCallArguments("{}", last=True)]
