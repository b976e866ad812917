"""Replies in the Harmony format of gpt-oss
(https://cookbook.openai.com/articles/openai-harmony)."""

from __future__ import annotations

import json
import re

from pomona_gateway.output.parts import Part, Said, Thought, overlap
from pomona_gateway.output.tool_calls import read_json_call

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
        self._held = ""

    @property
    def thinking(self) -> bool:
        return not self._in_header and self._channel == "analysis" and not self._recipient

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
            parts += self._body(held)
        elif held.strip() and not any(mark in held for mark in MARKS):
            parts.append(Said(held))
        return parts

    def _read_header(self) -> bool:
        before, mark, after = self._held.partition("<|message|>")
        if not mark:
            return False
        channel, recipient = _CHANNEL.search(before), _RECIPIENT.search(before)
        self._channel = channel[1] if channel else "final"
        self._recipient = recipient[1] if recipient else ""
        self._in_header, self._held = False, after
        return True

    def _read_body(self, parts: list[Part]) -> bool:
        found = [(at, mark) for mark in _ENDS if (at := self._held.find(mark)) >= 0]
        if found:
            at, mark = min(found)
            parts += self._body(self._held[:at])
            self._held = self._held[at + len(mark) :]
            self._in_header = True
            return True
        if not self._recipient:
            keep = max(overlap(self._held, mark) for mark in _ENDS)
            cut = len(self._held) - keep
            parts += self._body(self._held[:cut])
            self._held = self._held[cut:]
        return False

    def _body(self, text: str) -> list[Part]:
        if not text:
            return []
        if not self._recipient:
            return [Thought(text) if self._channel == "analysis" else Said(text)]
        name = self._recipient.removeprefix("functions.")
        call = json.dumps({"name": name, "arguments": text.strip() or "{}"})
        return list(read_json_call(call, {}) or [Said(text)])
