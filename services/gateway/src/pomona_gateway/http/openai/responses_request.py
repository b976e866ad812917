"""Body of ``POST /v1/responses``, and its conversion to a chat."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, StringConstraints, Tag

from pomona_gateway.generation.chat import Function, Tools
from pomona_gateway.grammar import Shape
from pomona_gateway.http.common.chat_messages import (
    MAX_MESSAGES,
    CallId,
    FunctionName,
    template_call,
)
from pomona_gateway.http.common.reasoning import Effort
from pomona_gateway.http.common.sampling_parameters import Label, SamplingParameters
from pomona_gateway.http.common.structured_output import FlatFormat, format_shape
from pomona_gateway.http.common.tools import CHOICE_NEEDS_TOOLS, MAX_TOOLS, choose_tools
from pomona_gateway.http.request_body import Body, RuledBody

Identity = Annotated[str, StringConstraints(max_length=256)]


class InputText(Body):
    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str = ""
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class InputMessage(Body):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[InputText], Field(fail_fast=True, max_length=1024)]
    id: Identity | None = None
    status: str | None = None
    phase: str | None = None


class InputCall(Body):
    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: str
    id: Identity | None = None
    status: str | None = None
    namespace: None = None
    caller: None = None


class InputCallOutput(Body):
    type: Literal["function_call_output"]
    call_id: CallId
    output: str | Annotated[list[InputText], Field(fail_fast=True)]
    id: Identity | None = None
    status: str | None = None


class ReasoningText(Body):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class InputReasoning(Body):
    type: Literal["reasoning"]
    id: Identity | None = None
    summary: Annotated[list[ReasoningText], Field(fail_fast=True)] | None = None
    content: Annotated[list[ReasoningText], Field(fail_fast=True)] | None = None
    encrypted_content: None = None
    status: str | None = None


def _item_type(item: Any) -> str:
    """Returns the type of an item; an item without one is a message."""
    if isinstance(item, dict):
        return str(cast("dict[str, Any]", item).get("type", "message"))
    return str(getattr(item, "type", ""))


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[InputCallOutput, Tag("function_call_output")]
    | Annotated[InputReasoning, Tag("reasoning")],
    Discriminator(_item_type),
]
AnyItem = InputMessage | InputCall | InputCallOutput | InputReasoning


class FunctionTool(Body):
    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedChoice(Body):
    type: Literal["function"]
    name: FunctionName


class TextOptions(Body):
    format: FlatFormat | None = None
    verbosity: None = None


class Reasoning(Body):
    effort: Effort | None = None
    summary: None = None


class ResponsesRequest(RuledBody):
    """A request of the Responses API."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    input: str | Annotated[list[Item], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    """A user message, or the items of a conversation."""
    instructions: str | None = None
    """A system message for this response only."""
    previous_response_id: Identity | None = None
    """Continue the conversation of this stored response."""
    store: bool | None = None
    """Store the response for ``previous_response_id``. Default true."""
    max_output_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    tools: Annotated[list[FunctionTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    stream: bool | None = None
    metadata: Annotated[dict[Label, Label], Field(max_length=16)] | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    include: Annotated[list[Any], Field(max_length=0)] | None = None

    rules = (CHOICE_NEEDS_TOOLS,)

    def parameters(self) -> SamplingParameters:
        """Returns the sampling parameters."""
        return SamplingParameters(model=self.model, temperature=self.temperature, top_p=self.top_p)

    def shape(self) -> Shape | None:
        """Returns what the text of the reply must match."""
        return format_shape(self.text.format if self.text else None, "text.format")

    def offered_tools(self) -> Tools:
        """Returns the tools that the model may call. Raises RequestError for an unknown choice."""
        functions = [
            Function(
                tool.name,
                tool.description,
                tool.parameters,
                f"tools[{index}].parameters",
                bool(tool.strict),
            )
            for index, tool in enumerate(self.tools or [])
        ]
        choice = self.tool_choice
        name = choice.name if isinstance(choice, NamedChoice) else ""
        mode = "named" if isinstance(choice, NamedChoice) else choice
        parallel = self.parallel_tool_calls is not False
        return choose_tools(functions, mode, name, parallel, "tool_choice.name")

    def input_items(self) -> list[dict[str, Any]]:
        """Returns the input as the API lists it: every item has an id, and texts are parts."""
        if isinstance(self.input, str):
            return [_listed_item(InputMessage(role="user", content=self.input))]
        return [_listed_item(item) for item in self.input]

    def conversation(self) -> list[dict[str, Any]]:
        """Returns the input in the form that chat templates read."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        messages: list[dict[str, Any]] = []
        for item in self.input:
            _append(messages, item)
        return messages


_ID_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}


def _listed_item(item: AnyItem) -> dict[str, Any]:
    listed = item.model_dump(exclude_none=True)
    if isinstance(item, InputMessage) and isinstance(item.content, str):
        part_type = "output_text" if item.role == "assistant" else "input_text"
        listed["content"] = [{"type": part_type, "text": item.content}]
    item_id = item.id or f"{_ID_PREFIXES[item.type]}_{secrets.token_hex(12)}"
    return {"id": item_id, "status": "completed", **listed}


def _append(messages: list[dict[str, Any]], item: AnyItem) -> None:
    match item:
        case InputMessage(role="assistant", content=content):
            _assistant_message(messages)["content"] += _text(content)
        case InputMessage(role=role, content=content):
            template_role = "system" if role == "developer" else role
            messages.append({"role": template_role, "content": _text(content)})
        case InputReasoning():
            text = "".join(x.text for x in item.content or item.summary or [])
            _assistant_message(messages)["reasoning_content"] = text
        case InputCall():
            call = template_call(item.call_id, item.name, item.arguments)
            _assistant_message(messages).setdefault("tool_calls", []).append(call)
        case InputCallOutput():
            text = _text(item.output)
            messages.append({"role": "tool", "content": text, "tool_call_id": item.call_id})


def _assistant_message(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the assistant's message at the end, which consecutive items share."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _text(content: str | list[InputText]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text or part.refusal or "" for part in content)
