"""Samples the next token of every row of a step at once, on the tail.

A sample is keyed by (seed, index): a request gets the same random numbers alone or in a batch, in
any epoch and at any number of stages. A batch may compute logits that differ in their last bits
from those of a single row; then a sample exactly between two tokens may differ.

The filters apply in vLLM's order: penalties and bias, temperature, min_p, top_k, top_p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from pomona.messages.sampling import Sampling
from pomona_stage_worker.sampling.logprobs import token_logprobs
from pomona_stage_worker.sampling.sequence_state import SequenceSampler
from pomona_stage_worker.sampling.tail_results import SamplerOutput

Strategy: TypeAlias = Callable[[mx.array, Sequence[Sampling], mx.array], mx.array]
"""Picks one token a row from logits (rows, vocabulary) and a number in [0, 1) for each row,
(rows, 1): returns (rows,)."""


def uniform(seed: int, index: int) -> float:
    """Returns the number in [0, 1) for (seed, index), with the 24 bits of a float32."""
    digest = blake2b(seed.to_bytes(8, "little") + index.to_bytes(8, "little"), digest_size=8)
    return (int.from_bytes(digest.digest(), "little") >> 40) / (1 << 24)


def sample_tokens(logits: mx.array, samplers: Sequence[SequenceSampler]) -> mx.array:
    """Samples a token for each row of ``logits`` (rows, vocabulary), float32.

    Returns: ids (rows,), lazy. :func:`sampler_outputs` evaluates them.
    """
    adjusted = [_adjust(logits[row], sampler) for row, sampler in enumerate(samplers)]
    if any(row is not None for row in adjusted):
        rows = [logits[i] if row is None else row for i, row in enumerate(adjusted)]
        logits = mx.stack(rows)
    if any(sampler.constraint is not None for sampler in samplers):
        logits = mx.where(_grammar_masks(samplers, logits.shape[-1]), logits, -mx.inf)
    picked: dict[int, mx.array] = {}
    for strategy in (_pick_likeliest, _sample_all, _sample_filtered):
        rows = [i for i, s in enumerate(samplers) if _strategy(s.sampling) is strategy]
        if rows:
            some = logits if len(rows) == len(samplers) else logits[mx.array(rows)]
            samplings = [samplers[i].sampling for i in rows]
            chosen = strategy(some, samplings, _uniforms(samplers, rows))
            picked.update({row: chosen[i] for i, row in enumerate(rows)})
    return mx.stack([picked[i] for i in range(len(samplers))])


def sampler_outputs(
    tokens: mx.array, logits: mx.array, samplers: Sequence[SequenceSampler]
) -> list[SamplerOutput]:
    """Evaluates sampled tokens, and computes the logprobs of the rows that request them.

    Logprobs are those of ``logits``, before penalties, temperature and filters.

    Args:
        tokens: ids (rows,) from :func:`sample_tokens`.
        logits: (rows, vocabulary), float32, as given to it.
    """
    outputs = [SamplerOutput(int(token)) for token in _as_list(tokens)]
    for row, sampler in enumerate(samplers):
        count = sampler.sampling.logprobs
        if count is not None:
            outputs[row] = _with_logprobs(logits[row], outputs[row].token, count)
    return outputs


def wants_logprobs(sampler: SequenceSampler) -> bool:
    """Returns True if the request asks for the logprobs of its reply."""
    return sampler.sampling.logprobs is not None


def _with_logprobs(logits: mx.array, token: int, count: int) -> SamplerOutput:
    own, ids, top = token_logprobs(logits[None], mx.array([token]), count)
    pairs = zip(_as_list(ids[0]), _as_list(top[0]), strict=True)
    return SamplerOutput(token, _as_list(own)[0], tuple((int(i), value) for i, value in pairs))


def _grammar_masks(samplers: Sequence[SequenceSampler], vocabulary: int) -> mx.array:
    """Returns the ids allowed in each row, bool (rows, vocabulary); all without a grammar."""
    free = np.ones(vocabulary, dtype=np.bool_)
    rows = [free if s.constraint is None else s.constraint.allowed() for s in samplers]
    stacked: NDArray[Any] = np.stack(rows)
    return mx.array(stacked)


def _adjust(row: mx.array, sampler: SequenceSampler) -> mx.array | None:
    """Applies penalties, bias and the ban on stop ids. Returns None if nothing changes."""
    sampling = sampler.sampling
    changed = row
    if sampling.repetition_penalty != 1.0:
        seen = sorted(sampler.prompt | sampler.reply.keys())
        if seen:
            ids = mx.array(seen)
            values = changed[ids]
            penalty = sampling.repetition_penalty
            values = mx.where(values > 0, values / penalty, values * penalty)
            changed = mx.array(changed)
            changed[ids] = values
    if (sampling.presence_penalty or sampling.frequency_penalty) and sampler.reply:
        ids = mx.array(list(sampler.reply))
        counts = mx.array(list(sampler.reply.values()), dtype=mx.float32)
        penalty = sampling.presence_penalty + sampling.frequency_penalty * counts
        changed = changed.at[ids].add(-penalty)
    if sampling.logit_bias:
        in_vocabulary = [(i, b) for i, b in sampling.logit_bias if i < row.shape[0]]
        if in_vocabulary:
            ids = mx.array([i for i, _ in in_vocabulary])
            changed = changed.at[ids].add(mx.array([b for _, b in in_vocabulary]))
    if sampler.index < sampling.min_tokens and sampling.stop_ids:
        changed = mx.array(changed)
        changed[mx.array([i for i in sampling.stop_ids if i < row.shape[0]])] = -mx.inf
    return None if changed is row else changed


def _strategy(sampling: Sampling) -> Strategy:
    """Chooses by the row's own parameters alone, so that other rows never change its tokens."""
    if sampling.temperature == 0:
        return _pick_likeliest
    return _sample_filtered if sampling.top_p < 1 or sampling.top_k > 0 else _sample_all


def _uniforms(samplers: Sequence[SequenceSampler], rows: Sequence[int]) -> mx.array:
    return _column([uniform(samplers[i].sampling.seed, samplers[i].index) for i in rows])


def _column(values: Sequence[float]) -> mx.array:
    return mx.array(list(values))[:, None]


def _pick_likeliest(
    logits: mx.array, samplings: Sequence[Sampling], uniforms: mx.array
) -> mx.array:
    return mx.argmax(logits, axis=-1)


def _sample_all(logits: mx.array, samplings: Sequence[Sampling], uniforms: mx.array) -> mx.array:
    """Samples from the whole vocabulary."""
    return _inverse_cdf(_probabilities(logits, samplings), uniforms)


def _sample_filtered(
    logits: mx.array, samplings: Sequence[Sampling], uniforms: mx.array
) -> mx.array:
    """Samples from the tokens that top_k and top_p leave."""
    probabilities = _probabilities(logits, samplings)
    vocabulary = logits.shape[-1]
    order = mx.argsort(-probabilities, axis=-1)
    ranked = mx.take_along_axis(probabilities, order, axis=-1)
    top_k = _column([float(s.top_k or vocabulary) for s in samplings])
    ranked = mx.where(mx.arange(vocabulary)[None] < top_k, ranked, 0.0)
    before = mx.cumsum(ranked, axis=-1) - ranked
    top_p = _column([s.top_p for s in samplings])
    reached = top_p * ranked.sum(axis=-1, keepdims=True)
    ranked = mx.where((before < reached) | (top_p >= 1), ranked, 0.0)
    rank = _inverse_cdf(ranked, uniforms)
    return mx.take_along_axis(order, rank[:, None], axis=-1)[:, 0]


def _probabilities(logits: mx.array, samplings: Sequence[Sampling]) -> mx.array:
    """Applies temperature and min_p."""
    probabilities = mx.softmax(logits / _column([s.temperature for s in samplings]), axis=-1)
    if all(s.min_p == 0 for s in samplings):
        return probabilities
    floor = _column([s.min_p for s in samplings]) * probabilities.max(axis=-1, keepdims=True)
    return mx.where(probabilities >= floor, probabilities, 0.0)


def _inverse_cdf(weights: mx.array, uniforms: mx.array) -> mx.array:
    """Returns the first index at which the running sum of unnormalised weights exceeds that share
    of their total."""
    running = mx.cumsum(weights, axis=-1)
    return mx.argmax(running > uniforms * running[:, -1:], axis=-1)


def _as_list(array: mx.array) -> list[float]:
    return array.tolist()  # type: ignore[return-value]  # mlx types tolist as object
