"""Body of ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field

from pomona.errors import RequestError
from pomona_gateway.generation.chat import Tools
from pomona_gateway.grammar import Shape
from pomona_gateway.http.common.chat_messages import (
    Messages,
    continues_last,
    template_messages,
)
from pomona_gateway.http.common.reasoning import SWITCH_VARIABLE, Effort
from pomona_gateway.http.common.sampling_parameters import (
    GRAMMAR_ENDS_REPLY,
    MAY_END,
    SamplingParameters,
    TokenLimit,
    lowest_limit,
)
from pomona_gateway.http.common.structured_output import ResponseFormat, format_shape
from pomona_gateway.http.common.tool_definitions import (
    CHOICE_NEEDS_TOOLS,
    MAX_TOOLS,
    AnyTool,
    FunctionDefinition,
    NamedFunction,
    NestedFunction,
    ToolChoice,
    ToolChoiceObject,
    ToolDefinitions,
)
from pomona_gateway.http.common.tools import openai_tools
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.http.request_body import Rule, absent_or, any_of, present_and

Functions = Annotated[list[FunctionDefinition], Field(fail_fast=True, max_length=MAX_TOOLS)]


class ChatRequest(SamplingParameters):
    """A chat completion request."""

    hints = SamplingParameters.hints | {
        "store", "verbosity", "web_search_options", "thinking", "reasoning",
        "include_reasoning", "parse_tool_calls", "reasoning_format", "timings_per_token",
    }  # fmt: skip

    messages: Messages
    max_tokens: TokenLimit | None = None
    """Maximum tokens of the reply. Default: the gateway's setting, or the rest of the context."""
    max_completion_tokens: TokenLimit | None = None
    """The newer name of ``max_tokens``; the lower of the two applies."""
    logprobs: bool | None = None
    """Report the logprob of each token."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Also report this many of the most likely tokens at each position. Needs ``logprobs``."""
    response_format: ResponseFormat | None = None
    """Text, a JSON object, or JSON that matches a schema."""
    tools: ToolDefinitions | None = None
    """Functions and custom tools that the model may call."""
    tool_choice: ToolChoice | None = None
    """``none``, ``auto``, ``required``, one tool to call, or the tools that may be called."""
    functions: Functions | None = None
    """The older form of ``tools``."""
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    """The older form of ``tool_choice``."""
    parallel_tool_calls: bool | None = None
    """Allow several calls in a reply. Default true."""
    reasoning_effort: Effort | None = None
    """Amount of reasoning, if the model's chat template has a setting for it."""
    enable_thinking: bool | None = None
    """The same as ``chat_template_kwargs.enable_thinking``."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template."""
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    """Continue the last message, which is the assistant's. Default: where there is one."""
    prediction: Any = None
    """Text that the reply is expected to have, in OpenAI's form: it is written faster where it
    is right, and the same otherwise."""
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    audio: None = None
    chat_template: None = None

    rules = (
        *SamplingParameters.rules,
        Rule(
            ("top_logprobs",),
            lambda body: not body.top_logprobs or bool(body.logprobs),
            any_of(
                absent_or("top_logprobs", {"enum": [None, 0]}),
                present_and("logprobs", {"const": True}),
            ),
            "it needs logprobs: true",
        ),
        Rule(
            ("structured_outputs",),
            lambda body: (
                body.structured_outputs is None
                or body.response_format is None
                or body.response_format.type == "text"
            ),
            any_of(
                absent_or("structured_outputs", {"type": "null"}),
                absent_or("response_format", {"type": "null"}),
                absent_or("response_format", absent_or("type", {"const": "text"})),
            ),
            "response_format constrains the reply too; give only one of them",
        ),
        Rule(
            ("response_format",),
            lambda body: (
                body.response_format is None
                or body.response_format.type == "text"
                or body.may_end()
            ),
            any_of(
                absent_or("response_format", {"type": "null"}),
                absent_or("response_format", absent_or("type", {"const": "text"})),
                MAY_END,
            ),
            GRAMMAR_ENDS_REPLY,
        ),
        CHOICE_NEEDS_TOOLS,
    )

    def predicted_text(self, ignored: IgnoredParameters) -> str:
        """Returns the text of ``prediction``; empty without one. Other forms have no effect."""
        value = self.prediction
        content: Any = None
        if isinstance(value, dict):
            content = cast("dict[str, Any]", value).get("content")
        parts = cast("list[Any]", content) if isinstance(content, list) else [{"text": content}]
        texts = [cast("dict[str, Any]", p).get("text") for p in parts if isinstance(p, dict)]
        text = "".join(part for part in texts if isinstance(part, str))
        if value is not None and not text:
            ignored.add("prediction")
        return text

    def conversation(self, ignored: IgnoredParameters) -> list[dict[str, Any]]:
        """Returns the messages in the form that chat templates read.

        Raises RequestError for content that the model cannot read.
        """
        return template_messages(self.messages, ignored)

    def continues_last(self, messages: list[dict[str, Any]], ignored: IgnoredParameters) -> bool:
        """Returns whether the reply continues the last message.

        Raises RequestError when it must and the last message is not the assistant's.
        """
        possible = continues_last(messages)
        if self.continue_final_message and not possible:
            name = "continue_final_message"
            message = f"invalid {name!r}: the last message is not a text of the assistant"
            raise RequestError(400, "parameter_not_supported", message, name)
        if self.add_generation_prompt is False and not possible:
            ignored.add("add_generation_prompt")
        return possible and self.continue_final_message is not False

    def offered_tools(self) -> Tools:
        """Returns the tools that the model may call. Raises RequestError for an unknown choice."""
        choice: ToolChoice | None = self.tool_choice
        if choice is None and isinstance(self.function_call, NamedFunction):
            choice = ToolChoiceObject(type="function", function=self.function_call)
        elif choice is None and not isinstance(self.function_call, NamedFunction):
            choice = self.function_call
        parallel = False if self.is_legacy else self.parallel_tool_calls
        return openai_tools(self.all_tools(), choice, parallel)

    @property
    def is_legacy(self) -> bool:
        """True when the request has ``functions``, whose only call is a ``function_call``."""
        return bool(self.functions) and not self.tools

    def all_tools(self) -> list[AnyTool]:
        """Returns ``tools``, or else ``functions`` as tools."""
        if self.tools:
            return self.tools
        return [NestedFunction(function=function) for function in self.functions or []]

    def template_variables(self) -> dict[str, Any]:
        """Returns the variables for the chat template."""
        variables = dict(self.chat_template_kwargs or {})
        if self.enable_thinking is not None:
            variables.setdefault(SWITCH_VARIABLE, self.enable_thinking)
        return variables

    def max_reply_tokens(self) -> int | None:
        """Returns the lower of the two limits; None without a limit."""
        return lowest_limit(self.max_tokens, self.max_completion_tokens)

    def shape(self) -> Shape | None:
        """Returns what the text of the reply must match."""
        return self.text_shape() or format_shape(self.response_format, "response_format")

    def reported_logprobs(self) -> int | None:
        """Returns how many top logprobs to report; None for no logprobs at all."""
        return (self.top_logprobs or 0) if self.logprobs else None
