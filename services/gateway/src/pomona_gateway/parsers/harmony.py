"""Replies in the Harmony format of gpt-oss
(https://cookbook.openai.com/articles/openai-harmony)."""

from __future__ import annotations

import re

from pomona_gateway.parsers.call_stream import NAMED_FORM, CallStream
from pomona_gateway.parsers.events import (
    Part,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
    overlap,
)
from pomona_gateway.parsers.tool_calls import read_mistral_calls

MARKS = (
    "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>",
)  # fmt: skip

_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([\w.:-]+)")


class HarmonyParser:
    """Reads one reply: messages, each with a header that says what its body is."""

    def __init__(self) -> None:
        self._in_header = True
        self._channel = ""
        self._recipient = ""
        self._calls: CallStream | None = None
        self._held = ""

    @property
    def thinking(self) -> bool:
        return not self._in_header and self._channel == "analysis" and self._calls is None

    def push(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while self._read_header() if self._in_header else self._read_body(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        parts = self.push("")
        held, self._held = self._held, ""
        if not self._in_header:
            parts += self._end(self._body(parts, held))
        elif held.strip() and not any(mark in held for mark in MARKS):
            parts.append(TextDelta(held))
        return parts

    def _read_header(self) -> bool:
        before, mark, after = self._held.partition("<|message|>")
        if not mark:
            return False
        channel, recipient = _CHANNEL.search(before), _RECIPIENT.search(before)
        self._channel = channel[1] if channel else "final"
        self._in_header, self._held = False, after
        if recipient:
            # Name and body are then what another notation writes in one.
            self._recipient = recipient[1].removeprefix("functions.")
            self._calls = CallStream(NAMED_FORM, read_mistral_calls, {})
            self._held = f"{self._recipient}\n{after}"
        return True

    def _read_body(self, parts: list[Part]) -> bool:
        found = [(at, mark) for mark in _ENDS if (at := self._held.find(mark)) >= 0]
        if not found:
            cut = len(self._held) - max(overlap(self._held, mark) for mark in _ENDS)
            before, after = self._held[:cut], self._held[cut:]
            self._held = self._body(parts, before) + after
            return False
        at, mark = min(found)
        before, self._held = self._held[:at], self._held[at + len(mark) :]
        parts += self._end(self._body(parts, before))
        self._in_header = True
        return True

    def _body(self, parts: list[Part], text: str) -> str:
        """Read what is certain of a message; the rest of the text."""
        if self._calls is not None:
            return self._calls.take(text, parts)
        if text:
            parts.append(ReasoningDelta(text) if self._channel == "analysis" else TextDelta(text))
        return ""

    def _end(self, rest: str) -> list[Part]:
        """The end of a message."""
        calls, self._calls = self._calls, None
        if calls is None:
            return []
        found = calls.close(rest)
        if found is not None:
            return found
        body = rest.removeprefix(f"{self._recipient}\n")
        if body.strip():
            return [TextDelta(body)]
        return [ToolCallStart(self._recipient), ToolCallArguments("{}", last=True)]
