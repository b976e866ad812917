"""Output items of a response, and the events that announce their parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from pomona_gateway.generation.chat import ChatDelta, ToolCallDelta, parse_arguments
from pomona_gateway.http.common.custom_calls import custom_input
from pomona_gateway.parsers import ReasoningDelta, TextDelta
from pomona_gateway.runs.run_context import new_hex


class OutputItems:
    """Collects a reply into output items. At most one item is open.

    Args:
        custom: names of the custom tools, whose calls arrive complete.

    Attributes:
        output: the items that have ended.
    """

    def __init__(self, custom: Collection[str] = ()) -> None:
        self._custom = custom
        self.output: list[dict[str, Any]] = []
        self._type = ""
        self._id = ""
        self._text = ""
        self._call: dict[str, str] = {}

    def add(self, turn: ChatDelta) -> Iterator[dict[str, Any]]:
        """Adds a turn and yields its events."""
        for part in turn.parts:
            match part:
                case TextDelta(text=text):
                    yield from self._open_item("message")
                    self._text += text
                    yield self._event("response.output_text.delta", delta=text, logprobs=[])
                case ReasoningDelta(text=text):
                    yield from self._open_item("reasoning")
                    self._text += text
                    yield self._event("response.reasoning_text.delta", delta=text)
                case ToolCallDelta(name=name) if name in self._custom:
                    yield from self._add_custom_call(part)
                case ToolCallDelta():
                    yield from self._add_call(part)

    def end_item(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        """Ends the open item, if there is one, and yields the events of its end."""
        if not self._type:
            return
        if self._type == "function_call":
            event = self._item_event("response.function_call_arguments.done", item_id=self._id)
            yield {**event, "name": self._call["name"], "arguments": self._text}
            item = self._call_item(status)
        else:
            part = self._content_part(self._text)
            kind = "output_text" if self._type == "message" else "reasoning_text"
            logprobs: dict[str, Any] = {"logprobs": []} if self._type == "message" else {}
            yield self._event(f"response.{kind}.done", text=self._text, **logprobs)
            yield self._event("response.content_part.done", part=part)
            item = self._text_item([part], status)
        yield self._item_event("response.output_item.done", item=item)
        self.output.append(item)
        self._type = ""

    def _open_item(self, item_type: str) -> Iterator[dict[str, Any]]:
        if self._type == item_type:
            return
        yield from self.end_item()
        prefix = "msg" if item_type == "message" else "rs"
        self._type, self._text, self._id = item_type, "", f"{prefix}_{new_hex(12)}"
        item = self._text_item([], "in_progress")
        yield self._item_event("response.output_item.added", item=item)
        yield self._event("response.content_part.added", part=self._content_part(""))

    def _add_call(self, piece: ToolCallDelta) -> Iterator[dict[str, Any]]:
        if piece.first:
            yield from self.end_item()
            self._type, self._text, self._id = "function_call", "", f"fc_{new_hex(12)}"
            self._call = {"call_id": piece.id, "name": piece.name}
            item = self._call_item("in_progress")
            yield self._item_event("response.output_item.added", item=item)
        if piece.arguments:
            self._text += piece.arguments
            event = self._item_event("response.function_call_arguments.delta", item_id=self._id)
            yield {**event, "delta": piece.arguments}
        if piece.last:
            yield from self.end_item()

    def _add_custom_call(self, call: ToolCallDelta) -> Iterator[dict[str, Any]]:
        yield from self.end_item()
        item = {
            "id": f"ctc_{new_hex(12)}",
            "type": "custom_tool_call",
            "call_id": call.id,
            "name": call.name,
            "input": "",
            "status": "in_progress",
        }
        text = custom_input(parse_arguments(call.arguments))
        place = {"item_id": item["id"]}
        name = "response.custom_tool_call_input"
        yield self._item_event("response.output_item.added", item=item)
        yield self._item_event(f"{name}.delta", **place, delta=text)
        yield self._item_event(f"{name}.done", **place, input=text)
        item = {**item, "input": text, "status": "completed"}
        yield self._item_event("response.output_item.done", item=item)
        self.output.append(item)

    def _call_item(self, status: str) -> dict[str, Any]:
        item = {"id": self._id, "type": "function_call", **self._call}
        return {**item, "arguments": self._text, "status": status}

    def _text_item(self, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self._id, "type": self._type, "status": status}
        if self._type == "message":
            return {**item, "role": "assistant", "content": content}
        return {**item, "summary": [], "content": content}

    def _content_part(self, text: str) -> dict[str, Any]:
        if self._type == "message":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "reasoning_text", "text": text}

    def _item_event(self, event_type: str, **fields: Any) -> dict[str, Any]:
        return {"type": event_type, "output_index": len(self.output), **fields}

    def _event(self, event_type: str, **fields: Any) -> dict[str, Any]:
        return self._item_event(event_type, item_id=self._id, content_index=0, **fields)
