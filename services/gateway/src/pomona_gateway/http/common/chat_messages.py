"""Chat messages in OpenAI's form, and their conversion to what chat templates read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pomona_gateway.generation.chat import parse_arguments
from pomona_gateway.http.request_body import Body

MAX_MESSAGES = 4096

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,256}$")]
CallId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class TextPart(Body):
    type: Literal["text"]
    text: str


Parts = Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=1024)]
Content = str | Parts


class SystemMessage(Body):
    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Body):
    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Body):
    name: FunctionName
    arguments: str


class ToolCall(Body):
    id: CallId
    type: Literal["function"] = "function"
    index: int | None = None
    function: CalledFunction


class AssistantMessage(Body):
    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=128)] | None = None
    # Clients send replies back with their empty fields.
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    provider_specific_fields: dict[str, Any] | None = None
    """litellm's metadata of the reply."""


class ToolMessage(Body):
    role: Literal["tool"]
    content: Content
    tool_call_id: CallId
    name: str | None = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]


def content_text(content: Content | None) -> str:
    """Joins the text parts of a message."""
    if content is None:
        return ""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def template_message(message: Message) -> dict[str, Any]:
    """Converts one message to the form that chat templates read."""
    text = content_text(message.content)
    match message:
        case SystemMessage():
            out: dict[str, Any] = {"role": "system", "content": text}
        case UserMessage():
            out = {"role": "user", "content": text}
        case ToolMessage(tool_call_id=call_id):
            out = {"role": "tool", "content": text, "tool_call_id": call_id}
        case AssistantMessage():
            out = {"role": "assistant", "content": text or message.refusal or ""}
            reasoning = message.reasoning_content or message.reasoning
            if reasoning:
                out |= {"reasoning_content": reasoning, "reasoning": reasoning}
            if message.tool_calls:
                out["tool_calls"] = [
                    template_call(call.id, call.function.name, call.function.arguments)
                    for call in message.tool_calls
                ]
    if message.name:
        out["name"] = message.name
    return out


def template_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """Converts an earlier tool call to the form that chat templates read.

    Args:
        arguments: JSON text of a model, perhaps cut off by a token limit.
    """
    return template_call_object(call_id, name, parse_arguments(arguments))


def template_call_object(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Converts an earlier tool call whose arguments are an object."""
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}
