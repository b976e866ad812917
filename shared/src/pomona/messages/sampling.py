"""Sampling parameters of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints

from pomona.messages.limits import (
    MAX_GRAMMAR_CHARACTERS,
    MAX_LOGIT_BIASES,
    MAX_STOP_IDS,
    MAX_TOP_LOGPROBS,
    Real,
    TokenId,
)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters that the tail applies. The defaults keep the model's distribution.

    Attributes:
        temperature: 0 is greedy decoding.
        top_p: keeps the smallest set of tokens whose total probability reaches this.
        top_k: keeps this many tokens; 0 keeps all.
        min_p: keeps tokens at least this likely relative to the most likely one.
        repetition_penalty: divides (multiplies when negative) the logits of tokens seen in
            prompt and reply (https://arxiv.org/abs/1909.05858).
        presence_penalty, frequency_penalty: subtracted once, and once an occurrence, from
            the logits of tokens in the reply, as the OpenAI API defines them.
        logit_bias: added to the logits of single tokens.
        seed: keys the sampler together with the token index, so a resubmitted request gets the
            same tokens.
        max_tokens: reply length at which it ends with ``length``.
        min_tokens: reply length below which stop ids are masked.
        stop_ids: tokens that end the reply with ``stop``.
        logprobs: number of alternatives (0 to 20) to report per token; None reports nothing.
        prompt_logprobs: the same for prompt tokens, in ``Scored`` messages.
        grammar: llguidance grammar that constrains the reply; empty for none.
        embedding: sends the prompt's embedding in an ``Embedded`` message. ``max_tokens`` must
            be 1; the token that follows is not a reply.
    """

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)]
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)] = 0.0
    logit_bias: Annotated[tuple[tuple[TokenId, Real], ...], Field(max_length=MAX_LOGIT_BIASES)] = ()
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] = 0
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    stop_ids: Annotated[tuple[TokenId, ...], Field(max_length=MAX_STOP_IDS)] = ()
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    grammar: Annotated[str, StringConstraints(max_length=MAX_GRAMMAR_CHARACTERS)] = ""
    embedding: bool = False
