"""Sampling parameters of OpenAI's endpoints, and what they become for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, StringConstraints

from pomona.errors import RequestError
from pomona.messages.sampling import Sampling
from pomona_gateway.generation.completion import SEED_MASK
from pomona_gateway.grammar import Shape
from pomona_gateway.http.common.structured_output import (
    Choices,
    Schema,
    StructuredOutputs,
    guided_shape,
)
from pomona_gateway.http.request_body import (
    Body,
    Rule,
    RuledBody,
    absent_or,
    any_of,
)
from pomona_gateway.runs.run_context import new_seed
from pomona_gateway.text import LanguageModel
from pomona_gateway.text.limits import PromptTooLongError

MAX_REPLIES = 16
MAX_STOPS = 16

StopString = Annotated[str, StringConstraints(max_length=256)]
StopStrings = Annotated[list[StopString], Field(fail_fast=True, max_length=MAX_STOPS)]
Label = Annotated[str, StringConstraints(max_length=512)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenName = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
"""A token id as the key of a JSON object."""
LogitBias = Annotated[
    dict[TokenName, Annotated[float, Field(ge=-100, le=100)]],
    # pydantic describes the keys that match, but does not exclude others.
    Field(max_length=4096, json_schema_extra={"additionalProperties": False}),
]


MAY_END = {"properties": {"ignore_eos": {"enum": [None, False]}, "min_tokens": {"enum": [None, 0]}}}
"""JSON Schema of :meth:`SamplingParameters.may_end`."""
GRAMMAR_ENDS_REPLY = (
    "a reply under a grammar ends where the grammar ends; leave out ignore_eos and min_tokens"
)


TokenLimit = Annotated[int, Field(ge=1, le=2**31 - 1)] | Literal[-1]
"""Maximum number of tokens of a reply; -1 is the same as none."""


def lowest_limit(*limits: int | None) -> int | None:
    """Returns the lowest of several token limits; None without a limit."""
    return min((x for x in limits if x is not None and x > 0), default=None)


class StreamOptions(Body):
    hints = frozenset({"include_obfuscation"})

    include_usage: bool | None = None
    """Send a last chunk with the token counts."""
    continuous_usage_stats: bool | None = None
    """Send the token counts in every chunk."""


class SamplingParameters(RuledBody):
    """Parameters that decide how tokens are sampled and when a reply ends.

    A parameter that is left out takes the value that the model's makers recommend, or else
    the default below.
    """

    hints = frozenset(
        {
            "user", "metadata", "safety_identifier", "service_tier", "cache_prompt", "id_slot",
            "prompt_cache_key", "prompt_cache_retention", "request_id", "priority",
        }
    )  # fmt: skip

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
    repetition_penalty: float | None = Field(
        default=None,
        gt=0,
        le=100,
        validation_alias=AliasChoices("repetition_penalty", "repeat_penalty"),
    )
    """Divides the logits of tokens seen in prompt and reply. Default 1."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: LogitBias | None = None
    """Bias to add to the logit of each token id."""
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)
    """The same seed gives the same reply. Default: a random one for each request."""
    speculative: bool | None = None
    """False: no token is guessed in advance. The reply is the same either way. Default true."""
    stop: StopString | StopStrings | None = None
    """Strings that end the reply and are left out."""
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=64)] | None = None
    """Token ids that end the reply, beside the model's own."""
    ignore_eos: bool | None = None
    """Continue after the token with which the model ends a reply."""
    min_tokens: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """The model cannot end its reply before this many tokens."""
    n: int | None = Field(default=None, ge=1, le=MAX_REPLIES)
    """Number of replies. Default 1."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    """Constrain the reply to a JSON Schema, a regular expression or a choice."""
    guided_json: Schema | str | None = None
    """The older name of ``structured_outputs.json``; the schema may be JSON text."""
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    use_beam_search: Literal[False] | None = None

    rules = (
        Rule(
            ("structured_outputs",),
            lambda body: body.structured_outputs is None or body.may_end(),
            any_of(absent_or("structured_outputs", {"type": "null"}), MAY_END),
            GRAMMAR_ENDS_REPLY,
        ),
    )

    def may_end(self) -> bool:
        """Returns whether a reply may end as soon as its grammar does."""
        return not self.ignore_eos and not self.min_tokens

    def stop_strings(self) -> tuple[str, ...]:
        """Returns ``stop`` as a tuple. An empty string is no stop string."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)

    def text_shape(self) -> Shape | None:
        """Returns the shape that ``structured_outputs`` or a ``guided_`` parameter demands."""
        if self.structured_outputs is not None:
            return self.structured_outputs.shape()
        return guided_shape(
            self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar
        )

    def with_defaults(self, defaults: Mapping[str, float]) -> SamplingParameters:
        """Returns a copy whose missing parameters have these values."""
        sent = self.model_dump(include=set(defaults), exclude_none=True)
        return self.model_copy(update={**defaults, **sent})


def build_sampling(
    parameters: SamplingParameters,
    language: LanguageModel,
    prompt_length: int,
    max_tokens: int | None,
    top_logprobs: int | None,
    prompt_parameter: str = "prompt",
) -> Sampling:
    """Returns the sampling settings for the tail.

    Args:
        prompt_length: in tokens.
        prompt_parameter: the parameter that holds the prompt, for error messages.
        max_tokens: maximum tokens of a reply; None or 0 for the rest of the context.
        top_logprobs: alternatives to report for each token; None for no logprobs.

    Raises RequestError for what this model does not support.
    """
    parameters = parameters.with_defaults(language.facts.sampling)
    room = language.context_length - prompt_length
    if room < 1:
        raise PromptTooLongError(prompt_length, language.context_length, prompt_parameter)
    vocab_size = language.facts.vocab_size
    end_ids = () if parameters.ignore_eos else language.stop_ids
    for token in parameters.stop_token_ids or ():
        if token >= vocab_size:
            raise _token_out_of_range("stop_token_ids", token, vocab_size)
    seed = new_seed(63) if parameters.seed is None else parameters.seed & SEED_MASK
    limit = min(room, max_tokens or room)
    if (parameters.min_tokens or 0) > limit:
        message = (
            f"invalid 'min_tokens': {parameters.min_tokens} is more than the {limit} tokens that "
            "the reply may have"
        )
        raise RequestError(400, "min_tokens_too_large", message, "min_tokens")
    return Sampling(
        max_tokens=limit,
        temperature=1.0 if parameters.temperature is None else parameters.temperature,
        top_p=1.0 if parameters.top_p is None else parameters.top_p,
        top_k=max(int(parameters.top_k or 0), 0),
        min_p=parameters.min_p or 0.0,
        repetition_penalty=parameters.repetition_penalty or 1.0,
        presence_penalty=parameters.presence_penalty or 0.0,
        frequency_penalty=parameters.frequency_penalty or 0.0,
        logit_bias=_logit_bias(parameters.logit_bias or {}, vocab_size),
        seed=seed,
        min_tokens=parameters.min_tokens or 0,
        stop_ids=tuple(sorted({*end_ids, *(parameters.stop_token_ids or ())})),
        logprobs=top_logprobs,
    )


def _logit_bias(bias: dict[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    pairs: list[tuple[int, float]] = []
    for token, value in bias.items():
        if int(token) >= vocab_size:
            raise _token_out_of_range("logit_bias", int(token), vocab_size)
        pairs.append((int(token), value))
    return tuple(sorted(pairs))


def _token_out_of_range(parameter: str, token: int, vocab_size: int) -> RequestError:
    message = f"invalid {parameter!r}: token id {token} is out of range [0, {vocab_size})"
    return RequestError(400, "invalid_value", message, parameter)
