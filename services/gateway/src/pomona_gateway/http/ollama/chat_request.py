"""Bodies of Ollama's ``/api/chat``, ``/api/generate`` and ``/api/show``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pomona.errors import RequestError
from pomona_gateway.grammar import JsonShape, Shape
from pomona_gateway.http.common.chat_messages import (
    MAX_MESSAGES,
    FunctionName,
    template_call_object,
)
from pomona_gateway.http.common.sampling_parameters import (
    SamplingParameters,
    StopString,
    StopStrings,
)
from pomona_gateway.http.common.structured_output import ANY_OBJECT
from pomona_gateway.http.common.tools import ToolDefinitions
from pomona_gateway.http.request_body import Body

DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's defaults, for what neither the request nor the model's makers set."""

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Options(Body):
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31 - 1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repeat_penalty: float | None = Field(default=None, gt=0, le=100)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)
    stop: StopString | StopStrings | None = None
    num_predict: int | None = Field(default=None, ge=-2, le=2**31 - 1)
    """Maximum tokens of the reply; below 1 for the rest of the context."""
    num_ctx: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """At most the model's context; the whole context is always available."""


class OllamaRequest(Body):
    """Parameters that both endpoints share."""

    model: ModelName
    stream: bool | None = None
    """Default true."""
    format: Literal["json"] | dict[str, Any] | None = None
    """``json`` for any JSON object, or a JSON Schema."""
    options: Options | None = None
    keep_alive: str | float | None = None
    """Accepted without effect: models stay loaded while the cluster serves them."""
    think: bool | Literal["low", "medium", "high"] | None = None

    @property
    def is_streamed(self) -> bool:
        """Returns whether the response is streamed."""
        return self.stream is not False

    def shape(self) -> Shape | None:
        """Returns what the text of the reply must match."""
        if self.format is None:
            return None
        schema = ANY_OBJECT if isinstance(self.format, str) else self.format
        return JsonShape(schema, "format")

    def max_reply_tokens(self) -> int | None:
        """Returns the maximum tokens of the reply; None without a limit."""
        limit = self.options.num_predict if self.options else None
        return limit if limit is not None and limit > 0 else None

    def parameters(self, model: str, recommended: Mapping[str, float]) -> SamplingParameters:
        """Returns the sampling parameters.

        Args:
            model: the model's name in the cluster.
            recommended: sampling that the model's makers recommend.
        """
        options = self.options or Options()
        parameters = SamplingParameters(
            model=model,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            min_p=options.min_p,
            repetition_penalty=options.repeat_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            seed=options.seed,
            stop=options.stop,
        )
        return parameters.with_defaults({**DEFAULTS, **recommended})

    def check_context(self, context_length: int) -> None:
        """Raises RequestError when the request needs a larger context, in tokens."""
        needed = self.options.num_ctx if self.options else None
        if needed is not None and needed > context_length:
            message = f"invalid 'options.num_ctx': this model's context is {context_length} tokens"
            raise RequestError(400, "invalid_value", message, "options.num_ctx")


class OllamaCall(Body):
    name: FunctionName
    arguments: dict[str, Any]
    index: int | None = None


class OllamaToolCall(Body):
    id: str | None = None
    type: Literal["function"] | None = None
    function: OllamaCall


class OllamaMessage(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_calls: Annotated[list[OllamaToolCall], Field(fail_fast=True, max_length=128)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    def template_message(self) -> dict[str, Any]:
        """Converts the message to the form that chat templates read."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking:
            message["reasoning_content"] = self.thinking
        if self.tool_name:
            message["name"] = self.tool_name
        if self.tool_calls:
            message["tool_calls"] = [
                template_call_object(
                    call.id or f"call_{index}", call.function.name, call.function.arguments
                )
                for index, call in enumerate(self.tool_calls)
            ]
        return message


class OllamaChat(OllamaRequest):
    """Body of ``/api/chat``."""

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True, max_length=MAX_MESSAGES)]
    tools: ToolDefinitions | None = None


class OllamaGenerate(OllamaRequest):
    """Body of ``/api/generate``."""

    prompt: str = ""
    system: str | None = None
    raw: bool | None = None
    """Use the prompt as it is, without a chat template."""
    suffix: Literal[""] | None = None
    images: Annotated[list[Any], Field(max_length=0)] | None = None


class ShowRequest(Body):
    """Body of ``/api/show``."""

    model: ModelName
    verbose: bool | None = None
