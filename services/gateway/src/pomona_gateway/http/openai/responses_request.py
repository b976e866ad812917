"""Body of ``POST /v1/responses``, and its conversion to a chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pomona_gateway.generation.chat import Tools
from pomona_gateway.grammar import Shape
from pomona_gateway.http.common.reasoning import Effort
from pomona_gateway.http.common.sampling_parameters import (
    SamplingParameters,
    TokenLimit,
    lowest_limit,
)
from pomona_gateway.http.common.structured_output import FlatFormat, format_shape
from pomona_gateway.http.common.tool_definitions import (
    CHOICE_NEEDS_TOOLS,
    ToolChoice,
    ToolDefinitions,
)
from pomona_gateway.http.common.tools import openai_tools
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.http.openai.input_items import Identity, Items, item_messages, listed_items
from pomona_gateway.http.request_body import Body, Rule, RuledBody, absent_or, any_of

_HINTS = frozenset(
    {
        "metadata", "user", "safety_identifier", "service_tier", "prompt_cache_key",
        "prompt_cache_retention", "include", "client_metadata", "max_tool_calls",
        "context_management",
    }
)  # fmt: skip


BACKGROUND_NEEDS_STORE = Rule(
    at=("background",),
    holds=lambda body: not (body.background and body.store is False),
    schema=any_of(
        absent_or("background", {"enum": [False, None]}),
        absent_or("store", {"enum": [True, None]}),
    ),
    text="a response in the background is stored; leave out 'store'",
)


class TextOptions(Body):
    hints = frozenset({"verbosity"})

    format: FlatFormat | None = None


class Reasoning(Body):
    hints = frozenset({"summary", "generate_summary", "context"})

    effort: Effort | None = None


class StreamOptions(Body):
    hints = frozenset({"include_obfuscation"})


class InputTokensRequest(RuledBody):
    """The part of a request that becomes the prompt, which ``input_tokens`` counts."""

    hints = _HINTS | {
        "stream", "store", "max_output_tokens", "temperature", "top_p", "stream_options",
    }  # fmt: skip

    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    input: str | Items | None = None
    """A user message, or the items of a conversation."""
    instructions: str | None = None
    """A system message for this response only."""
    previous_response_id: Identity | None = None
    """Continue the conversation of this stored response."""
    tools: ToolDefinitions | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """``auto`` drops the oldest turns of a conversation that is too long."""
    conversation: None = None
    prompt: None = None

    rules = (CHOICE_NEEDS_TOOLS,)

    def offered_tools(self) -> Tools:
        """Returns the tools that the model may call. Raises RequestError for an unknown choice."""
        return openai_tools(self.tools, self.tool_choice, self.parallel_tool_calls)

    def messages(self, ignored: IgnoredParameters) -> list[dict[str, Any]]:
        """Returns the input in the form that chat templates read.

        Raises RequestError for content that the model cannot read.
        """
        return item_messages(self.input, ignored)

    def input_items(self) -> list[dict[str, Any]]:
        """Returns the input as the API lists it."""
        return listed_items(self.input)


class ResponsesRequest(InputTokensRequest):
    """A request of the Responses API."""

    hints = _HINTS

    store: bool | None = None
    """Store the response for ``previous_response_id``. Default true."""
    max_output_tokens: TokenLimit | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    """Answer at once, and go on without the client, which retrieves the response later."""

    rules = (CHOICE_NEEDS_TOOLS, BACKGROUND_NEEDS_STORE)

    def parameters(self) -> SamplingParameters:
        """Returns the sampling parameters."""
        return SamplingParameters(model=self.model, temperature=self.temperature, top_p=self.top_p)

    def max_reply_tokens(self) -> int | None:
        """Returns the maximum tokens of the reply; None without a limit."""
        return lowest_limit(self.max_output_tokens)

    def shape(self) -> Shape | None:
        """Returns what the text of the reply must match."""
        return format_shape(self.text.format if self.text else None, "text.format")
