"""Messages in which the tail reports its results to the head and to gateways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import numpy as np

from pomona.messages.cache_ops import Open
from pomona.messages.codec import Buffer
from pomona.messages.pipeline import Embedded, FinishReason, Scored, Tensor, Token
from pomona_stage_worker.sampling.sampled_tensors import SampledToken

PromptMessage: TypeAlias = tuple[Scored | Embedded, tuple[Tensor, ...], tuple[Buffer, ...]]
"""Body, tensors and their bytes."""


@dataclass(frozen=True, slots=True)
class SamplerOutput:
    """A sampled token. ``logprob`` and ``top`` are set only if the request asks for them.

    Attributes:
        top: the most likely ids with their logprobs, most likely first.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenResult:
    """One token as both receivers get it.

    Attributes:
        reply: address of the gateway.
        sampled: for the head.
        token: for the gateway.
    """

    reply: str
    sampled: SampledToken
    token: Token


@dataclass(frozen=True, slots=True)
class PromptResult:
    """Logprobs or the embedding of a prompt, for the gateway at address ``reply``."""

    reply: str
    message: PromptMessage


def token_result(
    op: Open,
    index: int,
    output: SamplerOutput,
    finish: FinishReason | None,
    accepted: int = 0,
    rejected: int = 0,
) -> TokenResult:
    """Builds the messages for token ``index`` of the sequence that ``op`` opened.

    Args:
        accepted, rejected: guesses of the sequence so far that were right and wrong.
    """
    return TokenResult(
        op.reply,
        SampledToken(op.seq, output.token, finish),
        Token(
            op.request, op.attempt, index, output.token, finish, output.logprob, output.top,
            accepted, rejected,
        ),
    )  # fmt: skip


def prompt_logprobs_result(
    op: Open, first: int, logprobs: mx.array, top_ids: mx.array, top_logprobs: mx.array
) -> PromptResult:
    """Builds the message for the logprobs of prompt tokens from ``first`` + 1 on.

    Args:
        logprobs: float32 (n,).
        top_ids: int32 (n, count).
        top_logprobs: float32 (n, count).
    """
    body = Scored(op.request, op.attempt, first)
    return _prompt_result(op, body, logprobs, top_ids, top_logprobs)


def embedding_result(op: Open, embedding: mx.array) -> PromptResult:
    """Builds the message for an embedding (hidden_size,) of any float dtype; sent as float32."""
    return _prompt_result(op, Embedded(op.request, op.attempt), embedding.astype(mx.float32))


def _prompt_result(op: Open, body: Scored | Embedded, *results: mx.array) -> PromptResult:
    arrays = [np.asarray(result) for result in results]
    tensors = tuple(Tensor(str(array.dtype), array.shape) for array in arrays)  # type: ignore[arg-type]  # float32 or int32
    return PromptResult(op.reply, (body, tensors, tuple(array.tobytes() for array in arrays)))
