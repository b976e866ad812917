"""Bodies of Anthropic's ``/v1/messages`` endpoints, and their conversion to a chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from pomona_gateway.generation.chat import Function, Tools
from pomona_gateway.grammar import Shape
from pomona_gateway.http.anthropic.content_blocks import (
    Block,
    ResultContent,
    TurnContent,
    assistant_message,
    block_text,
    user_messages,
)
from pomona_gateway.http.common.chat_messages import MAX_MESSAGES, FunctionName
from pomona_gateway.http.common.content import type_of
from pomona_gateway.http.common.reasoning import ReasoningWish
from pomona_gateway.http.common.sampling_parameters import SamplingParameters, StopStrings
from pomona_gateway.http.common.structured_output import FlatFormat, format_shape
from pomona_gateway.http.common.tool_definitions import MAX_TOOLS, NEEDS_TOOLS, NO_ARGUMENTS
from pomona_gateway.http.common.tools import choose_tools
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.http.request_body import (
    Body,
    Rule,
    RuledBody,
    absent_or,
    any_of,
    present_and,
)

_HINTS = frozenset(
    {
        "metadata", "cache_control", "service_tier", "context_management", "container",
        "mcp_servers", "betas", "inference_geo", "speed", "user_profile_id", "diagnostics",
    }
)  # fmt: skip


class Turn(Body):
    hints = frozenset({"id", "stop_reason", "cache_control", "usage"})

    role: Literal["user", "assistant", "system", "developer"]
    content: TurnContent


class AnthropicTool(Block):
    hints = Block.hints | {
        "input_examples", "defer_loading", "allowed_callers", "eager_input_streaming",
    }  # fmt: skip

    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class AnthropicServerTool(Body):
    """A tool that Anthropic defines, like ``web_search_20250305``. It is left out."""

    left_out = True

    type: str


def _tool_kind(tool: Any) -> str:
    return "custom" if type_of(tool, "custom") == "custom" else "server"


AnthropicTools = Annotated[
    list[
        Annotated[
            Annotated[AnthropicTool, Tag("custom")] | Annotated[AnthropicServerTool, Tag("server")],
            Discriminator(_tool_kind),
        ]
    ],
    Field(fail_fast=True, max_length=MAX_TOOLS),
]


class NoChoice(Body):
    hints = frozenset({"disable_parallel_tool_use"})

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
    hints = frozenset({"budget_tokens"})

    type: Literal["enabled", "adaptive", "disabled"]
    display: Literal["summarized", "omitted"] | None = None

    @property
    def is_shown(self) -> bool:
        """Returns whether the response contains the reasoning."""
        return self.type != "disabled" and self.display != "omitted"


class OutputConfig(Body):
    hints = frozenset({"task_budget"})

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: FlatFormat | None = None


class CountRequest(RuledBody):
    """The part of a request that becomes the prompt, which ``count_tokens`` counts."""

    hints = _HINTS | {"max_tokens", "stop_sequences", "stream", "temperature", "top_k", "top_p"}

    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    messages: Annotated[list[Turn], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    system: ResultContent = None
    tools: AnthropicTools | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

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
                tool.input_schema or NO_ARGUMENTS,
                f"tools[{index}].input_schema",
                bool(tool.strict),
            )
            for index, tool in enumerate(self.tools or [])
            if isinstance(tool, AnthropicTool)
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

    def conversation(self, ignored: IgnoredParameters) -> list[dict[str, Any]]:
        """Returns the messages in the form that chat templates read.

        Raises RequestError for content that the model cannot read.
        """
        messages: list[dict[str, Any]] = []
        if self.system:
            text = block_text(self.system, "system", ignored)
            messages.append({"role": "system", "content": text})
        for index, turn in enumerate(self.messages):
            where = f"messages[{index}].content"
            if turn.role in ("system", "developer"):
                text = block_text(turn.content, where, ignored)
                messages.append({"role": "system", "content": text})
            elif turn.content is None or isinstance(turn.content, str):
                messages.append({"role": turn.role, "content": turn.content or ""})
            elif turn.role == "user":
                messages += user_messages(turn.content, where, ignored)
            else:
                messages.append(assistant_message(turn.content, where, ignored))
        return messages

    def wish(self) -> ReasoningWish:
        """Returns how much the client wants the model to reason; by default not at all."""
        effort = self.output_config.effort if self.output_config else None
        if self.thinking is not None:
            enabled = self.thinking.type != "disabled"
            where = ("thinking",) if effort is None else ("thinking", "output_config.effort")
            return ReasoningWish(effort if enabled else None, enabled, where)
        if effort is not None:
            return ReasoningWish(effort, True, ("output_config.effort",))
        return ReasoningWish(None, enabled=False, where=())


class MessagesRequest(CountRequest):
    """A request of the Messages API."""

    hints = _HINTS

    max_tokens: int = Field(ge=1, le=2**31 - 1)
    """Maximum tokens of the reply."""
    stop_sequences: StopStrings | None = None
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=2**31 - 1)

    def shape(self) -> Shape | None:
        """Returns what the text of the reply must match."""
        output_format = self.output_config.format if self.output_config else None
        return format_shape(output_format, "output_config.format")

    def parameters(self) -> SamplingParameters:
        """Returns the sampling parameters."""
        return SamplingParameters(
            model=self.model,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop_sequences,
        )
