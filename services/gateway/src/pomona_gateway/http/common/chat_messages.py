"""Chat messages in OpenAI's form, and their conversion to what chat templates read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from pydantic_core import to_json

from pomona_gateway.generation.chat import parse_arguments
from pomona_gateway.http.common.content import Content, read_content
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.http.request_body import Body

MAX_MESSAGES = 4096
MAX_CALLS = 1024

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]{1,256}$")]
CallId = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Arguments = str | dict[str, Any] | None
"""Arguments of an earlier call: JSON text, perhaps cut off by a token limit, or an object."""

INPUT = "input"
"""The only argument of a custom tool, which takes a text."""


class SystemMessage(Body):
    role: Literal["system", "developer"]
    content: Content | None
    name: str | None = None


class UserMessage(Body):
    role: Literal["user"]
    content: Content | None
    name: str | None = None


class CalledFunction(Body):
    name: FunctionName
    arguments: Arguments = None


class CalledCustomTool(Body):
    name: FunctionName
    input: str | None = None


class ToolCall(Body):
    hints = frozenset({"index", "extra_content", "provider_specific_fields"})

    id: CallId | None = None
    type: Literal["function", "custom"] | None = None
    function: CalledFunction | None = None
    custom: CalledCustomTool | None = None


class AssistantMessage(Body):
    # Clients send replies back with their metadata.
    hints = frozenset(
        {"audio", "annotations", "provider_specific_fields", "reasoning_details", "id"}
    )

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=MAX_CALLS)] | None = None
    function_call: CalledFunction | None = None
    """The only call, in OpenAI's older form."""
    prefix: bool | None = None
    """The reply continues this message, if it is the last one."""


class ToolMessage(Body):
    role: Literal["tool", "function"]
    content: Content | dict[str, Any] | None = None
    """A text or parts; an object is given to the model as JSON text."""
    tool_call_id: CallId | None = None
    name: str | None = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]


def template_messages(messages: list[Message], ignored: IgnoredParameters) -> list[dict[str, Any]]:
    """Converts messages to the form that chat templates read.

    Raises RequestError for content that the model cannot read.
    """
    out: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        is_result = isinstance(message, ToolMessage)
        where = f"messages[{index}].content"
        given = message.content
        given = json_text(given) if isinstance(given, dict) else given
        content = read_content(given, where, ignored, is_result=is_result)
        match message:
            case SystemMessage():
                written: dict[str, Any] = {"role": "system", "content": content.text}
            case UserMessage():
                written = {"role": "user", "content": content.text}
            case ToolMessage():
                written = {"role": "tool", "content": content.text}
                if call_id := message.tool_call_id or _last_call_id(out):
                    written["tool_call_id"] = call_id
            case AssistantMessage():
                written = _assistant_message(message, content.text, content.reasoning, index)
        if message.name:
            written["name"] = message.name
        out.append(written)
    return out


def _assistant_message(
    message: AssistantMessage, text: str, reasoning: str, index: int
) -> dict[str, Any]:
    out: dict[str, Any] = {"role": "assistant", "content": text or message.refusal or ""}
    if reasoning := message.reasoning_content or message.reasoning or reasoning:
        out |= {"reasoning_content": reasoning, "reasoning": reasoning}
    calls: list[dict[str, Any]] = []
    for number, call in enumerate(message.tool_calls or []):
        call_id = call.id or f"call_{index}_{number}"
        if call.function is not None:
            calls.append(template_call(call_id, call.function.name, call.function.arguments))
        elif call.custom is not None:
            given = {INPUT: call.custom.input or ""}
            calls.append(template_call(call_id, call.custom.name, given))
    if message.function_call is not None:
        function = message.function_call
        calls.append(template_call(f"call_{index}", function.name, function.arguments))
    if calls:
        out["tool_calls"] = calls
    return out


def _last_call_id(messages: list[dict[str, Any]]) -> str:
    """Returns the id of the first call without a result, which a result without an id answers."""
    for answered, message in enumerate(reversed(messages)):
        if message["role"] != "tool":
            calls = message.get("tool_calls") or []
            return calls[answered]["id"] if answered < len(calls) else ""
    return ""


def template_call(call_id: str, name: str, arguments: Arguments) -> dict[str, Any]:
    """Converts an earlier tool call to the form that chat templates read."""
    given = arguments if isinstance(arguments, dict) else parse_arguments(arguments or "")
    return template_call_object(call_id, name, given)


def template_call_object(call_id: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Converts an earlier tool call whose arguments are an object."""
    function = {"name": name, "arguments": dict(arguments)}
    return {"id": call_id, "type": "function", "function": function}


def continues_last(messages: list[dict[str, Any]]) -> bool:
    """Returns whether a conversation ends with words of the assistant, to be continued."""
    last = messages[-1] if messages else {}
    is_text = last.get("role") == "assistant" and not last.get("tool_calls")
    return is_text and bool(last.get("content"))


def json_text(value: Any) -> str:
    """Writes a value as JSON text."""
    return to_json(value).decode()
