"""Requests of Ollama's API, and what they mean
(https://github.com/ollama/ollama/blob/main/docs/api.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pomona.errors import RequestError
from pomona_gateway.grammar import JsonShape, Shape
from pomona_gateway.http.common.chat_messages import MAX_MESSAGES, FunctionName
from pomona_gateway.http.common.sampling_parameters import (
    SamplingParameters,
    StopString,
    StopStrings,
)
from pomona_gateway.http.common.structured_output import ANY_OBJECT
from pomona_gateway.http.common.tools import ToolDefinitions
from pomona_gateway.http.request_body import Body

DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's own, for what neither the request nor the model's makers say."""

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
    """Most tokens of the reply; below 1: what is left of the context."""
    num_ctx: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """At most the context of the model; it is always all there."""


class OllamaRequest(Body):
    """What both endpoints share."""

    model: ModelName
    stream: bool | None = None
    """Default true."""
    format: Literal["json"] | dict[str, Any] | None = None
    """``json`` for any JSON object, or a JSON Schema."""
    options: Options | None = None
    keep_alive: str | float | None = None
    """Models stay loaded while the cluster serves them, whatever this says."""
    think: bool | Literal["low", "medium", "high"] | None = None

    @property
    def streams(self) -> bool:
        return self.stream is not False

    def shape(self) -> Shape | None:
        """What the reply's text must match."""
        if self.format is None:
            return None
        schema = ANY_OBJECT if isinstance(self.format, str) else self.format
        return JsonShape(schema, "format")

    def limit(self) -> int | None:
        wanted = self.options.num_predict if self.options else None
        return wanted if wanted is not None and wanted > 0 else None

    def parameters(self, model: str, recommended: Mapping[str, float]) -> SamplingParameters:
        options = self.options or Options()
        given = SamplingParameters(
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
        return given.completed({**DEFAULTS, **recommended})

    def check_context(self, length: int) -> None:
        wanted = self.options.num_ctx if self.options else None
        if wanted is not None and wanted > length:
            message = f"invalid 'options.num_ctx': this model's context is {length} tokens"
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

    def turn(self) -> dict[str, Any]:
        """The message as chat templates know it."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking:
            out["reasoning_content"] = self.thinking
        if self.tool_name:
            out["name"] = self.tool_name
        if self.tool_calls:
            out["tool_calls"] = [
                {
                    "id": call.id or f"call_{place}",
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
                for place, call in enumerate(self.tool_calls)
            ]
        return out


class OllamaChat(OllamaRequest):
    """``/api/chat``"""

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True, max_length=MAX_MESSAGES)]
    tools: ToolDefinitions | None = None


class OllamaGenerate(OllamaRequest):
    """``/api/generate``"""

    prompt: str = ""
    system: str | None = None
    raw: bool | None = None
    """The prompt is no message but the text itself."""
    suffix: Literal[""] | None = None
    images: Annotated[list[Any], Field(max_length=0)] | None = None


class ShowRequest(Body):
    """``/api/show``"""

    model: ModelName
    verbose: bool | None = None
