"""The output items of a response as they grow, and the events that tell of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from pomona_gateway.generation.chat import ChatDelta, ToolCallDelta
from pomona_gateway.parsers import ReasoningDelta, TextDelta


class OutputItems:
    """Numbers items; one is open at a time. ``output`` holds those that are done."""

    def __init__(self) -> None:
        self.output: list[dict[str, Any]] = []
        self._kind = ""
        self._id = ""
        self._text = ""
        self._call: dict[str, str] = {}

    def write(self, turn: ChatDelta) -> Iterator[dict[str, Any]]:
        """The events of what a turn adds."""
        for part in turn.parts:
            match part:
                case TextDelta(text=text):
                    yield from self._in("message")
                    self._text += text
                    yield self._event("response.output_text.delta", delta=text, logprobs=[])
                case ReasoningDelta(text=text):
                    yield from self._in("reasoning")
                    self._text += text
                    yield self._event("response.reasoning_text.delta", delta=text)
                case ToolCallDelta():
                    yield from self._calling(part)

    def close(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        """The events that end the open item."""
        if not self._kind:
            return
        if self._kind == "function_call":
            place = {**self._place("response.function_call_arguments.done"), "item_id": self._id}
            yield {**place, "name": self._call["name"], "arguments": self._text}
            item = self._call_item(status)
        else:
            part = self._part(self._text)
            kind = "output_text" if self._kind == "message" else "reasoning_text"
            logprobs: dict[str, Any] = {"logprobs": []} if self._kind == "message" else {}
            yield self._event(f"response.{kind}.done", text=self._text, **logprobs)
            yield self._event("response.content_part.done", part=part)
            item = self._item([part], status)
        yield {**self._place("response.output_item.done"), "item": item}
        self.output.append(item)
        self._kind = ""

    def _in(self, kind: str) -> Iterator[dict[str, Any]]:
        if self._kind == kind:
            return
        yield from self.close()
        prefix = "msg" if kind == "message" else "rs"
        self._kind, self._text, self._id = kind, "", f"{prefix}_{secrets.token_hex(12)}"
        item = self._item([], "in_progress")
        yield {**self._place("response.output_item.added"), "item": item}
        yield self._event("response.content_part.added", part=self._part(""))

    def _calling(self, piece: ToolCallDelta) -> Iterator[dict[str, Any]]:
        if piece.first:
            yield from self.close()
            self._kind, self._text, self._id = "function_call", "", f"fc_{secrets.token_hex(12)}"
            self._call = {"call_id": piece.id, "name": piece.name}
            item = self._call_item("in_progress")
            yield {**self._place("response.output_item.added"), "item": item}
        if piece.arguments:
            self._text += piece.arguments
            place = {**self._place("response.function_call_arguments.delta"), "item_id": self._id}
            yield {**place, "delta": piece.arguments}
        if piece.last:
            yield from self.close()

    def _call_item(self, status: str) -> dict[str, Any]:
        item = {"id": self._id, "type": "function_call", **self._call}
        return {**item, "arguments": self._text, "status": status}

    def _item(self, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self._id, "type": self._kind, "status": status}
        if self._kind == "message":
            return {**item, "role": "assistant", "content": content}
        return {**item, "summary": [], "content": content}

    def _part(self, text: str) -> dict[str, Any]:
        if self._kind == "message":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "reasoning_text", "text": text}

    def _place(self, kind: str) -> dict[str, Any]:
        return {"type": kind, "output_index": len(self.output)}

    def _event(self, kind: str, **content: Any) -> dict[str, Any]:
        return {**self._place(kind), "item_id": self._id, "content_index": 0, **content}
