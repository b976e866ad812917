"""Body of ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pomona_gateway.generation.chat import Tools
from pomona_gateway.grammar import Shape
from pomona_gateway.http.common.chat_messages import Messages, template_message
from pomona_gateway.http.common.reasoning import Effort
from pomona_gateway.http.common.sampling_parameters import (
    GRAMMAR_ENDS_REPLY,
    MAY_END,
    Label,
    SamplingParameters,
)
from pomona_gateway.http.common.structured_output import ResponseFormat, format_shape
from pomona_gateway.http.common.tools import (
    CHOICE_NEEDS_TOOLS,
    ToolChoice,
    ToolDefinitions,
    openai_tools,
)
from pomona_gateway.http.request_body import Rule, absent_or, any_of, present_and


class ChatRequest(SamplingParameters):
    """A chat completion request."""

    messages: Messages
    max_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Maximum tokens of the reply. Default: the rest of the context."""
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """The newer name of ``max_tokens``; the lower of the two applies."""
    logprobs: bool | None = None
    """Report the logprob of each token."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Also report this many of the most likely tokens at each position. Needs ``logprobs``."""
    response_format: ResponseFormat | None = None
    """Text, a JSON object, or JSON that matches a schema."""
    tools: ToolDefinitions | None = None
    """Functions that the model may call."""
    tool_choice: ToolChoice | None = None
    """``none``, ``auto``, ``required``, or one function to call."""
    parallel_tool_calls: bool | None = None
    """Allow several calls in a reply. Default true."""
    reasoning_effort: Effort | None = None
    """Amount of reasoning, if the model's chat template has a setting for it."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template."""
    metadata: Annotated[dict[Label, Label], Field(max_length=16)] | None = None
    """Labels without effect."""
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    store: Literal[False] | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    service_tier: Literal["auto", "default"] | None = None

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

    def conversation(self) -> list[dict[str, Any]]:
        """Returns the messages in the form that chat templates read."""
        return [template_message(message) for message in self.messages]

    def offered_tools(self) -> Tools:
        """Returns the tools that the model may call. Raises RequestError for an unknown choice."""
        return openai_tools(self.tools, self.tool_choice, self.parallel_tool_calls)

    def max_reply_tokens(self) -> int | None:
        """Returns the lower of the two limits; None without a limit."""
        limits = [x for x in (self.max_tokens, self.max_completion_tokens) if x is not None]
        return min(limits, default=None)

    def shape(self) -> Shape | None:
        """Returns what the text of the reply must match."""
        if self.structured_outputs is None:
            return format_shape(self.response_format, "response_format")
        return self.structured_outputs.shape()

    def reported_logprobs(self) -> int | None:
        """Returns how many top logprobs to report; None for no logprobs at all."""
        return (self.top_logprobs or 0) if self.logprobs else None
