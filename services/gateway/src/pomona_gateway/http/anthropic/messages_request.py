"""Requests of Anthropic's Messages API, and what they mean
(https://docs.claude.com/en/api/messages)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pomona_gateway.generation.chat import Function, Tools
from pomona_gateway.grammar import Shape
from pomona_gateway.http.common.chat_messages import MAX_MESSAGES, CallId, FunctionName
from pomona_gateway.http.common.prepare_chat import Effort
from pomona_gateway.http.common.sampling_parameters import Label, SamplingParameters, StopStrings
from pomona_gateway.http.common.structured_output import FlatFormat, format_shape
from pomona_gateway.http.common.tools import MAX_TOOLS, NO_TOOLS, offered
from pomona_gateway.http.request_body import Body, Rule, RuledBody, either, given, unless

MAX_BLOCKS = 4096


class CacheControl(Body):
    """A hint: prompts are always kept for reuse here."""

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
    """A hint: no model here can be held to it."""
    display: Literal["summarized", "omitted"] | None = None

    @property
    def shown(self) -> bool:
        return self.type != "disabled" and self.display != "omitted"


class OutputConfig(Body):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: FlatFormat | None = None


class Metadata(Body):
    user_id: Label | None = None


class CountRequest(RuledBody):
    """What ``count_tokens`` counts: all of a request that becomes prompt."""

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
            either(
                unless("tool_choice", {"type": "null"}),
                unless("tool_choice", unless("type", {"enum": ["auto", "none"]})),
                given("tools", {"type": "array", "minItems": 1}),
            ),
            NO_TOOLS,
        ),
    )


class MessagesRequest(CountRequest):
    """A request for a message."""

    max_tokens: int = Field(ge=1, le=2**31 - 1)
    """Most tokens of the reply."""
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
        """What the reply's text must match."""
        held = self.output_config.format if self.output_config else None
        return format_shape(held, "output_config.format")

    def effort(self) -> Effort | None:
        effort = self.output_config.effort if self.output_config else None
        return "xhigh" if effort == "max" else effort

    def parameters(self) -> SamplingParameters:
        return SamplingParameters(
            model=self.model,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop_sequences,
        )


def anthropic_tools(asked: CountRequest) -> Tools:
    """What the model may call. Raises RequestError for a choice that is none."""
    functions = [
        Function(
            tool.name,
            tool.description or None,
            tool.input_schema,
            f"tools[{place}].input_schema",
            bool(tool.strict),
        )
        for place, tool in enumerate(asked.tools or [])
    ]
    match asked.tool_choice:
        case None:
            word, named, parallel = "auto", "", True
        case NoChoice():
            word, named, parallel = "none", "", True
        case NamedChoice(name=named, disable_parallel_tool_use=single):
            word, parallel = "named", not single
        case FreeChoice(type=kind, disable_parallel_tool_use=single):
            word, named, parallel = "required" if kind == "any" else "auto", "", not single
    return offered(functions, word, named, parallel, "tool_choice.name")


def anthropic_messages(asked: CountRequest) -> list[dict[str, Any]]:
    """The conversation as chat templates know it."""
    out: list[dict[str, Any]] = []
    if asked.system is not None:
        out.append({"role": "system", "content": _text(asked.system)})
    for message in asked.messages:
        if isinstance(message.content, str):
            out.append({"role": message.role, "content": message.content})
        elif isinstance(message, UserTurn):
            out += _user_turn(message.content)
        else:
            out.append(_assistant_turn(message.content))
    return out


def _user_turn(blocks: list[UserBlock]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    for block in blocks:
        match block:
            case TextBlock(text=text):
                texts.append(text)
            case ToolResultBlock(tool_use_id=call, content=content, is_error=failed):
                text = ("Error: " if failed else "") + _text(content or "")
                results.append({"role": "tool", "content": text, "tool_call_id": call})
    said = [{"role": "user", "content": "".join(texts)}] if texts or not results else []
    return [*results, *said]


def _assistant_turn(blocks: list[AssistantBlock]) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "assistant", "content": ""}
    for block in blocks:
        match block:
            case TextBlock(text=text):
                turn["content"] += text
            case ThinkingBlock(thinking=thinking):
                turn["reasoning_content"] = turn.get("reasoning_content", "") + thinking
            case ToolUseBlock(id=call, name=name, input=arguments):
                function = {"name": name, "arguments": arguments}
                turn.setdefault("tool_calls", []).append(
                    {"id": call, "type": "function", "function": function}
                )
            case RedactedThinkingBlock():
                pass
    return turn


def _text(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)
