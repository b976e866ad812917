"""Input items of the Responses API, and their conversion to what chat templates read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from pomona_gateway.http.common.chat_messages import (
    INPUT,
    MAX_MESSAGES,
    Arguments,
    CallId,
    FunctionName,
    json_text,
    template_call,
)
from pomona_gateway.http.common.content import Content, TextPart, read_content, type_of
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.http.request_body import Body
from pomona_gateway.runs.run_context import new_hex

Identity = Annotated[str, StringConstraints(max_length=256)]


class ListedItem(Body):
    # Clients send output items back as input.
    hints = frozenset(
        {"phase", "namespace", "caller", "created_by", "internal_chat_message_metadata_passthrough"}
    )

    id: Identity | None = None
    status: str | None = None


class InputMessage(ListedItem):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None


class InputCall(ListedItem):
    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: Arguments = None


class InputCustomCall(ListedItem):
    type: Literal["custom_tool_call"]
    call_id: CallId
    name: FunctionName
    input: str | None = None


class InputCallOutput(ListedItem):
    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: CallId
    output: Content | dict[str, Any] | None = None
    """A text or parts; an object is given to the model as JSON text."""


class InputReasoning(ListedItem):
    hints = ListedItem.hints | {"encrypted_content"}

    type: Literal["reasoning"]
    summary: Annotated[list[TextPart | ReasoningPart], Field(fail_fast=True)] | None = None
    content: Annotated[list[TextPart | ReasoningPart], Field(fail_fast=True)] | None = None


class ReasoningPart(Body):
    type: Literal["reasoning_text"]
    text: str | None = None


class OtherItem(ListedItem):
    """An item of a tool that only OpenAI's server runs, or of a type that is not known."""

    left_out = True

    type: str


_TYPES = {
    "message": "message", "function_call": "call", "custom_tool_call": "custom_call",
    "function_call_output": "output", "custom_tool_call_output": "output",
    "reasoning": "reasoning",
}  # fmt: skip


def _item_kind(item: Any) -> str:
    return _TYPES.get(type_of(item, "message"), "other")


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("call")]
    | Annotated[InputCustomCall, Tag("custom_call")]
    | Annotated[InputCallOutput, Tag("output")]
    | Annotated[InputReasoning, Tag("reasoning")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(_item_kind),
]
Items = Annotated[list[Item], Field(fail_fast=True, max_length=MAX_MESSAGES)]
AnyItem = InputMessage | InputCall | InputCustomCall | InputCallOutput | InputReasoning | OtherItem

_ID_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}


def listed_items(given: str | list[Item] | None) -> list[dict[str, Any]]:
    """Returns the input as the API lists it: every item has an id, and texts are parts."""
    if given is None:
        return []
    if isinstance(given, str):
        return [_listed_item(InputMessage(role="user", content=given))]
    return [_listed_item(item) for item in given]


def _listed_item(item: AnyItem) -> dict[str, Any]:
    listed = item.model_dump(exclude_none=True)
    if isinstance(item, InputMessage) and isinstance(item.content, str):
        part_type = "output_text" if item.role == "assistant" else "input_text"
        listed["content"] = [{"type": part_type, "text": item.content}]
    item_id = item.id or f"{_ID_PREFIXES.get(item.type, 'item')}_{new_hex(12)}"
    return {"id": item_id, "status": "completed", **listed}


def item_messages(
    given: str | list[Item] | None, ignored: IgnoredParameters
) -> list[dict[str, Any]]:
    """Converts the input to the form that chat templates read.

    Raises RequestError for content that the model cannot read.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for index, item in enumerate(given or []):
        _append(messages, item, f"input[{index}]", ignored)
    return messages


def _append(
    messages: list[dict[str, Any]], item: AnyItem, where: str, ignored: IgnoredParameters
) -> None:
    match item:
        case InputMessage(role="assistant", content=content):
            text = read_content(content, f"{where}.content", ignored).text
            _assistant_message(messages)["content"] += text
        case InputMessage(role=role, content=content):
            template_role = "system" if role == "developer" else role
            text = read_content(content, f"{where}.content", ignored).text
            messages.append({"role": template_role, "content": text})
        case InputReasoning():
            text = "".join(part.text or "" for part in item.content or item.summary or [])
            if text:
                _assistant_message(messages)["reasoning_content"] = text
            else:
                ignored.add(f"{where}.reasoning")
        case InputCall():
            _add_call(messages, template_call(item.call_id, item.name, item.arguments))
        case InputCustomCall():
            given = {INPUT: item.input or ""}
            _add_call(messages, template_call(item.call_id, item.name, given))
        case InputCallOutput():
            given = json_text(item.output) if isinstance(item.output, dict) else item.output
            output = read_content(given, f"{where}.output", ignored, is_result=True)
            messages.append({"role": "tool", "content": output.text, "tool_call_id": item.call_id})
        case OtherItem():
            pass


def _add_call(messages: list[dict[str, Any]], call: dict[str, Any]) -> None:
    _assistant_message(messages).setdefault("tool_calls", []).append(call)


def _assistant_message(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the assistant's message at the end, which consecutive items share."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]
