"""Bodies of Anthropic's ``/v1/messages`` endpoints, and their conversion to a chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pomona_gateway.generation.chat import Function, Tools
from pomona_gateway.grammar import Shape
from pomona_gateway.http.common.chat_messages import (
    MAX_MESSAGES,
    CallId,
    FunctionName,
    template_call_object,
)
from pomona_gateway.http.common.reasoning import Effort
from pomona_gateway.http.common.sampling_parameters import Label, SamplingParameters, StopStrings
from pomona_gateway.http.common.structured_output import FlatFormat, format_shape
from pomona_gateway.http.common.tools import MAX_TOOLS, NEEDS_TOOLS, choose_tools
from pomona_gateway.http.request_body import (
    Body,
    Rule,
    RuledBody,
    absent_or,
    any_of,
    present_and,
)

MAX_BLOCKS = 4096


class CacheControl(Body):
    """Accepted without effect: the prefix cache keeps every prompt."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Block(Body):
    cache_control: CacheControl | None = None


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: None = None


TextBlocks = Annotated[list[TextBlock], Field(fail_fast=True)]


class ThinkingBlock(Body):
    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Body):
    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: CallId
    name: FunctionName
    input: dict[str, Any]


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: CallId
    content: str | TextBlocks | None = None
    is_error: bool | None = None


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, Field(discriminator="type")
]


class UserTurn(Body):
    role: Literal["user"]
    content: str | Annotated[list[UserBlock], Field(fail_fast=True, max_length=MAX_BLOCKS)]


class AssistantTurn(Body):
    role: Literal["assistant"]
    content: str | Annotated[list[AssistantBlock], Field(fail_fast=True, max_length=MAX_BLOCKS)]


AnthropicMessage = Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]


class AnthropicTool(Block):
    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class NoChoice(Body):
    type: Literal["none"]


class FreeChoice(Body):
    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = None


class NamedChoice(Body):
    type: Literal["tool"]
    name: FunctionName
    disable_parallel_tool_use: bool | None = None


ToolChoice = Annotated[NoChoice | FreeChoice | NamedChoice, Field(discriminator="type")]


class Thinking(Body):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Accepted without effect: no model here has such a limit."""
    display: Literal["summarized", "omitted"] | None = None

    @property
    def is_shown(self) -> bool:
        """Returns whether the response contains the reasoning."""
        return self.type != "disabled" and self.display != "omitted"


class OutputConfig(Body):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: FlatFormat | None = None


class Metadata(Body):
    user_id: Label | None = None


class CountRequest(RuledBody):
    """The part of a request that becomes the prompt, which ``count_tokens`` counts."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    messages: Annotated[
        list[AnthropicMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)
    ]
    system: str | TextBlocks | None = None
    tools: Annotated[list[AnthropicTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None

    rules = (
        Rule(
            ("tool_choice",),
            lambda body: (
                body.tool_choice is None
                or body.tool_choice.type in ("auto", "none")
                or bool(body.tools)
            ),
            any_of(
                absent_or("tool_choice", {"type": "null"}),
                absent_or("tool_choice", absent_or("type", {"enum": ["auto", "none"]})),
                present_and("tools", {"type": "array", "minItems": 1}),
            ),
            NEEDS_TOOLS,
        ),
    )

    def offered_tools(self) -> Tools:
        """Returns the tools that the model may call. Raises RequestError for an unknown choice."""
        functions = [
            Function(
                tool.name,
                tool.description or None,
                tool.input_schema,
                f"tools[{index}].input_schema",
                bool(tool.strict),
            )
            for index, tool in enumerate(self.tools or [])
        ]
        match self.tool_choice:
            case None:
                mode, name, parallel = "auto", "", True
            case NoChoice():
                mode, name, parallel = "none", "", True
            case NamedChoice(name=name, disable_parallel_tool_use=single):
                mode, parallel = "named", not single
            case FreeChoice(type=kind, disable_parallel_tool_use=single):
                mode, name, parallel = "required" if kind == "any" else "auto", "", not single
        return choose_tools(functions, mode, name, parallel, "tool_choice.name")

    def conversation(self) -> list[dict[str, Any]]:
        """Returns the messages in the form that chat templates read."""
        messages: list[dict[str, Any]] = []
        if self.system is not None:
            messages.append({"role": "system", "content": _text(self.system)})
        for message in self.messages:
            if isinstance(message.content, str):
                messages.append({"role": message.role, "content": message.content})
            elif isinstance(message, UserTurn):
                messages += _user_messages(message.content)
            else:
                messages.append(_assistant_message(message.content))
        return messages


class MessagesRequest(CountRequest):
    """A request of the Messages API."""

    max_tokens: int = Field(ge=1, le=2**31 - 1)
    """Maximum tokens of the reply."""
    stop_sequences: StopStrings | None = None
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31 - 1)
    metadata: Metadata | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    def shape(self) -> Shape | None:
        """Returns what the text of the reply must match."""
        output_format = self.output_config.format if self.output_config else None
        return format_shape(output_format, "output_config.format")

    def effort(self) -> Effort | None:
        """Returns the amount of reasoning; ``max`` is the highest effort."""
        effort = self.output_config.effort if self.output_config else None
        return "xhigh" if effort == "max" else effort

    def parameters(self) -> SamplingParameters:
        """Returns the sampling parameters."""
        return SamplingParameters(
            model=self.model,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop_sequences,
        )


def _user_messages(blocks: list[UserBlock]) -> list[dict[str, Any]]:
    """Converts a user turn to tool results and at most one user message."""
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    for block in blocks:
        match block:
            case TextBlock(text=text):
                texts.append(text)
            case ToolResultBlock(tool_use_id=call_id, content=content, is_error=failed):
                text = ("Error: " if failed else "") + _text(content or "")
                results.append({"role": "tool", "content": text, "tool_call_id": call_id})
    if not texts and results:
        return results
    return [*results, {"role": "user", "content": "".join(texts)}]


def _assistant_message(blocks: list[AssistantBlock]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for block in blocks:
        match block:
            case TextBlock(text=text):
                message["content"] += text
            case ThinkingBlock(thinking=thinking):
                message["reasoning_content"] = message.get("reasoning_content", "") + thinking
            case ToolUseBlock(id=call_id, name=name, input=arguments):
                call = template_call_object(call_id, name, arguments)
                message.setdefault("tool_calls", []).append(call)
            case RedactedThinkingBlock():
                pass
    return message


def _text(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)
