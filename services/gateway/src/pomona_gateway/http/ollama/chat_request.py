"""Bodies of Ollama's ``/api/chat``, ``/api/generate`` and ``/api/show``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, StringConstraints

from pomona.errors import RequestError
from pomona_gateway.grammar import JsonShape, Shape
from pomona_gateway.http.common.chat_messages import (
    MAX_MESSAGES,
    Arguments,
    FunctionName,
    template_call,
)
from pomona_gateway.http.common.content import Content, leave_out_media, read_content
from pomona_gateway.http.common.reasoning import ReasoningWish
from pomona_gateway.http.common.sampling_parameters import (
    SamplingParameters,
    StopString,
    StopStrings,
)
from pomona_gateway.http.common.structured_output import ANY_OBJECT
from pomona_gateway.http.common.tool_definitions import ToolDefinitions
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.http.request_body import Body

MAX_INPUTS = 2048
DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's defaults, for what neither the request nor the model's makers set."""

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Options(Body):
    hints = frozenset(
        {
            "num_thread", "num_gpu", "num_batch", "main_gpu", "use_mmap", "use_mlock", "low_vram",
            "vocab_only", "numa", "num_keep", "num_gqa", "f16_kv", "logits_all", "embedding_only",
        }
    )  # fmt: skip

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=2**31 - 1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repeat_penalty: float | None = Field(
        default=None,
        gt=0,
        le=100,
        validation_alias=AliasChoices("repeat_penalty", "repetition_penalty"),
    )
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)
    stop: StopString | StopStrings | None = None
    num_predict: int | None = Field(default=None, ge=-(2**31), le=2**31 - 1)
    """Maximum tokens of the reply; below 1 for the rest of the context."""
    num_ctx: int | None = Field(default=None, ge=-(2**31), le=2**31 - 1)
    """Without effect where the model's context is lower; the whole context is always available."""


class OllamaRequest(Body):
    """Parameters that both endpoints share."""

    hints = frozenset({"keep_alive", "truncate", "shift"})

    model: ModelName
    stream: bool | None = None
    """Default true."""
    format: Literal["json", ""] | dict[str, Any] | None = None
    """``json`` for any JSON object, or a JSON Schema."""
    options: Options | None = None
    think: bool | Literal["none", "low", "medium", "high", "max", ""] | None = None
    logprobs: bool | None = None
    """Report the logprob of each token."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Also report this many of the most likely tokens at each position. Needs ``logprobs``."""

    @property
    def is_streamed(self) -> bool:
        """Returns whether the response is streamed."""
        return self.stream is not False

    def reported_logprobs(self) -> int | None:
        """Returns how many top logprobs to report; None for no logprobs at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def wish(self) -> ReasoningWish | None:
        """Returns how much the client wants the model to reason."""
        think = self.think
        if think is None or think == "":
            return None
        effort = None if isinstance(think, bool) else think
        return ReasoningWish(effort, think not in (False, "none"), ("think",))

    def shape(self) -> Shape | None:
        """Returns what the text of the reply must match."""
        if self.format is None or self.format == "":
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

    def note_context(self, context_length: int, ignored: IgnoredParameters) -> None:
        """Notes a context, in tokens, that is larger than the model's."""
        wanted = self.options.num_ctx if self.options else None
        if wanted is not None and wanted > context_length:
            ignored.add("options.num_ctx")


class OllamaCall(Body):
    hints = frozenset({"index"})

    name: FunctionName
    arguments: Arguments = None


class OllamaToolCall(Body):
    hints = frozenset({"type"})

    id: str | None = None
    function: OllamaCall


class OllamaMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: Annotated[list[OllamaToolCall], Field(fail_fast=True, max_length=1024)] | None = (
        None
    )
    tool_name: str | None = Field(default=None, validation_alias=AliasChoices("tool_name", "name"))
    tool_call_id: str | None = None

    def template_message(self, where: str, ignored: IgnoredParameters) -> dict[str, Any]:
        """Converts the message to the form that chat templates read.

        Args:
            where: the parameter that holds the message.

        Raises RequestError for images that the model would have to read.
        """
        is_result = self.role == "tool"
        content = read_content(self.content, f"{where}.content", ignored, is_result)
        if self.images:
            leave_out_media(f"{where}.images", "image", ignored, is_result and bool(content.text))
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": content.text}
        if self.thinking:
            message["reasoning_content"] = self.thinking
        if self.tool_name:
            message["name"] = self.tool_name
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            message["tool_calls"] = [
                template_call(
                    call.id or f"call_{index}", call.function.name, call.function.arguments
                )
                for index, call in enumerate(self.tool_calls)
            ]
        return message


class OllamaChat(OllamaRequest):
    """Body of ``/api/chat``."""

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True, max_length=MAX_MESSAGES)] | None
    tools: ToolDefinitions | None = None

    def conversation(self, ignored: IgnoredParameters) -> list[dict[str, Any]]:
        """Returns the messages in the form that chat templates read.

        Raises RequestError for images that the model would have to read.
        """
        return [
            message.template_message(f"messages[{index}]", ignored)
            for index, message in enumerate(self.messages or [])
        ]


class OllamaGenerate(OllamaRequest):
    """Body of ``/api/generate``."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    """Use the prompt as it is, without a chat template."""
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    images: list[Any] | None = None

    def check_support(self, ignored: IgnoredParameters) -> None:
        """Raises RequestError naming a parameter that cannot be honoured, with the reason."""
        if self.images:
            leave_out_media("images", "image", ignored, False)
        reasons = {
            "suffix": (self.suffix, "this model cannot fill in the middle of a text"),
            "template": (
                self.template,
                "the model's own chat template is used; send the whole prompt with raw: true",
            ),
            "context": (
                self.context,
                "no server keeps contexts as token ids; send the earlier messages to /api/chat",
            ),
        }
        for name, (value, reason) in reasons.items():
            if value:
                message = f"invalid {name!r}: {reason}"
                raise RequestError(400, "parameter_not_supported", message, name)


class ShowRequest(Body):
    """Body of ``/api/show``."""

    hints = frozenset({"verbose", "system", "template", "options"})

    model: ModelName = Field(validation_alias=AliasChoices("model", "name"))


class EmbedRequest(Body):
    """Body of ``/api/embed``."""

    hints = frozenset({"truncate", "keep_alive", "options"})

    model: ModelName
    input: str | Annotated[list[str], Field(fail_fast=True, max_length=MAX_INPUTS)]
    dimensions: int | None = Field(default=None, ge=1)


class OldEmbedRequest(Body):
    """Body of ``/api/embeddings``, Ollama's older endpoint for one text."""

    hints = frozenset({"keep_alive", "options"})

    model: ModelName
    prompt: str
