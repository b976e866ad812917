"""Pools a prompt into its embedding, on the tail: the last token's hidden states."""

from __future__ import annotations

import mlx.core as mx

from pomona_stage_worker.sampling.sequence_state import SequenceSampler
from pomona_stage_worker.sampling.tail_results import (
    PromptResult,
    SamplerOutput,
    TokenResult,
    embedding_result,
)

NO_TOKEN = SamplerOutput(0)
"""Token that ends the sequence of an embedding request; nothing is sampled for it."""


def pool_last_token(sampler: SequenceSampler, hidden: mx.array) -> tuple[TokenResult, PromptResult]:
    """Ends an embedding request.

    Args:
        hidden: (1, length, hidden_size), evaluated, any float dtype: the input of the vocabulary
            head.
    """
    return sampler.accept(NO_TOKEN), embedding_result(sampler.opened, hidden[0, -1])
