"""The parameters that OpenAI's chat and completion endpoints share."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pomona.errors import RequestError
from pomona.messages.sampling import Sampling
from pomona_gateway.generation.completion import SEED_MASK
from pomona_gateway.http.common.structured_output import StructuredOutputs
from pomona_gateway.http.request_body import Body, Rule, RuledBody, either, given, unless
from pomona_gateway.text import LanguageModel

MAX_REPLIES = 16
MAX_STOPS = 16

StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]
StopStrings = Annotated[list[StopString], Field(fail_fast=True, max_length=MAX_STOPS)]
Label = Annotated[str, StringConstraints(max_length=512)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenName = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
"""A token id as the name of a value."""
LogitBias = Annotated[
    dict[TokenName, Annotated[float, Field(ge=-100, le=100)]],
    # pydantic describes names that match, and leaves open whether there are others.
    Field(max_length=4096, json_schema_extra={"additionalProperties": False}),
]


MAY_END = {"properties": {"ignore_eos": {"enum": [None, False]}, "min_tokens": {"enum": [None, 0]}}}


class StreamOptions(Body):
    include_usage: bool = False
    """Send a last chunk with the token counts."""
    include_obfuscation: Literal[False] | None = None


class SamplingParameters(RuledBody):
    """What decides how tokens are drawn and when a reply ends.

    What a request leaves open is as the model's makers recommend, or else the default.
    """

    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """Name of a model that ``/v1/models`` lists."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 takes the most likely token. Default 1."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Keep the smallest set of tokens whose probability reaches this. Default 1."""
    top_k: int | None = Field(default=None, ge=-1, le=2**31 - 1)
    """Keep this many tokens; 0 and -1 keep all. Default 0."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Keep tokens at least this likely relative to the most likely one. Default 0."""
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    """Divides the logits of tokens seen in prompt and reply. Default 1."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: LogitBias | None = None
    """Token id to what is added to its logit."""
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)
    """The same seed draws the same reply. Default: another one for each request."""
    stop: StopString | StopStrings | None = None
    """Strings that end the reply and are not part of it."""
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=64)] | None = None
    """Token ids that end the reply, beside the model's own."""
    ignore_eos: bool | None = None
    """Go on after the token with which the model ends a reply."""
    min_tokens: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """The model cannot end its reply before this many tokens."""
    n: int | None = Field(default=None, ge=1, le=MAX_REPLIES)
    """How many replies."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    """Hold the reply to a JSON Schema, a regular expression or a choice."""
    user: Label | None = None
    """A label; it changes nothing."""

    rules = (
        Rule(
            ("stream_options",),
            lambda body: body.stream_options is None or bool(body.stream),
            either(unless("stream_options", {"type": "null"}), given("stream", {"const": True})),
            "they need stream: true",
        ),
        Rule(
            ("structured_outputs",),
            lambda body: body.structured_outputs is None or body.may_end(),
            either(unless("structured_outputs", {"type": "null"}), MAY_END),
            "a reply that must match ends where that ends; leave out ignore_eos and min_tokens",
        ),
    )

    def may_end(self) -> bool:
        """Whether a reply may end where a grammar says."""
        return not self.ignore_eos and not self.min_tokens

    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def completed(self, recommended: Mapping[str, float]) -> SamplingParameters:
        """With the sampling that is recommended where none is given."""
        open_ones = {k: x for k, x in recommended.items() if getattr(self, k) is None}
        return self.model_copy(update=open_ones)


def sampling(
    parameters: SamplingParameters,
    language: LanguageModel,
    prompt_length: int,
    max_tokens: int | None,
    logprobs: int | None,
) -> Sampling:
    """What the tail is told. Raises RequestError for what this model cannot do."""
    given = parameters.completed(language.facts.sampling)
    room = language.context_length - prompt_length
    if room < 1:
        raise RequestError(
            400,
            "context_length_exceeded",
            f"the prompt has {prompt_length} tokens; this model's context is "
            f"{language.context_length} tokens, of which the reply needs at least one",
            "messages" if "messages" in type(given).model_fields else "prompt",
        )
    size = language.facts.vocab_size
    stop_ids = () if given.ignore_eos else language.stop_ids
    for token in given.stop_token_ids or ():
        if token >= size:
            raise _no_token("stop_token_ids", token, size)
    seed = secrets.randbits(63) if given.seed is None else given.seed & SEED_MASK
    most = min(room, max_tokens or room)
    if (given.min_tokens or 0) > most:
        message = f"invalid 'min_tokens': the reply may have {most} tokens, not {given.min_tokens}"
        raise RequestError(400, "min_tokens_too_large", message, "min_tokens")
    return Sampling(
        max_tokens=most,
        temperature=1.0 if given.temperature is None else given.temperature,
        top_p=1.0 if given.top_p is None else given.top_p,
        top_k=max(int(given.top_k or 0), 0),
        min_p=given.min_p or 0.0,
        repetition_penalty=given.repetition_penalty or 1.0,
        presence_penalty=given.presence_penalty or 0.0,
        frequency_penalty=given.frequency_penalty or 0.0,
        logit_bias=_logit_bias(given.logit_bias or {}, size),
        seed=seed,
        min_tokens=given.min_tokens or 0,
        stop_ids=tuple(sorted({*stop_ids, *(given.stop_token_ids or ())})),
        logprobs=logprobs,
    )


def _logit_bias(bias: dict[str, float], size: int) -> tuple[tuple[int, float], ...]:
    pairs: list[tuple[int, float]] = []
    for key, value in bias.items():
        if int(key) >= size:
            raise _no_token("logit_bias", key, size)
        pairs.append((int(key), value))
    return tuple(sorted(pairs))


def _no_token(parameter: str, token: object, size: int) -> RequestError:
    message = f"invalid {parameter!r}: {token!r} is no token id of this model, which has {size}"
    return RequestError(400, "invalid_value", message, parameter)
