"""How a request wants its tokens drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints

from pomona.messages.limits import MAX_GRAMMAR_CHARACTERS, MAX_TOP_LOGPROBS, TokenId


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tail draws a sequence's tokens. The defaults leave the model's distribution.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: keep the smallest set of tokens whose probability reaches this.
        top_k: keep this many tokens; 0 keeps all.
        min_p: keep tokens at least this likely relative to the most likely one.
        repetition_penalty: divides (multiplies when negative) the logits of tokens seen in
            prompt and reply (https://arxiv.org/abs/1909.05858).
        presence_penalty, frequency_penalty: subtracted once, and once an occurrence, from
            the logits of tokens in the reply, as the OpenAI API defines them.
        logit_bias: added to the logits of single tokens.
        seed: with the token's index it keys every draw, so a resumed request draws what it
            would have drawn.
        max_tokens: ends the reply with ``length``.
        min_tokens: no stop id may be drawn before this many tokens.
        stop_ids: tokens that end the reply with ``stop``.
        logprobs: None, or how many alternatives (0 to 20) are reported for each token.
        prompt_logprobs: the same for the prompt's own tokens, in ``Scored`` messages.
        grammar: the reply must match it: a grammar as llguidance writes it; empty for none.
        embedding: tell the prompt's embedding, in an ``Embedded`` message; the one token after
            it is no reply. ``max_tokens`` must be 1.
    """

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)]
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-100, le=100)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-100, le=100)] = 0.0
    logit_bias: Annotated[tuple[tuple[TokenId, float], ...], Field(max_length=4096)] = ()
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] = 0
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    stop_ids: Annotated[tuple[TokenId, ...], Field(max_length=1024)] = ()
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    grammar: Annotated[str, StringConstraints(max_length=MAX_GRAMMAR_CHARACTERS)] = ""
    embedding: bool = False
