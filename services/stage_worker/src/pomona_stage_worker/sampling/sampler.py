"""Drawing tokens on the tail, for all rows of a step at once.

A draw is keyed by (seed, index): the same request draws the same numbers alone or among
others, in any epoch and at any number of stages. Where the logits differ in their last
bits (a batch multiplies in another order than a single row does), a draw that falls on the
boundary between two tokens may differ; nothing else can.

Order of the filters, as vLLM has it: penalties and bias, temperature, min_p, top_k, top_p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from pomona.messages.sampling import Sampling
from pomona_stage_worker.sampling.sequence_state import SamplerOutput, SequenceSampler

Way: TypeAlias = Callable[[mx.array, Sequence[Sampling], mx.array], mx.array]
"""Picks a token for each row, given its number in [0, 1): (rows, vocabulary) -> (rows,)."""


def uniform(seed: int, index: int) -> float:
    """The number in [0, 1) that belongs to (seed, index), with the 24 bits of a float32."""
    digest = blake2b(seed.to_bytes(8, "little") + index.to_bytes(8, "little"), digest_size=8)
    return (int.from_bytes(digest.digest(), "little") >> 40) / (1 << 24)


def begin_draw(logits: mx.array, drawings: Sequence[SequenceSampler]) -> mx.array:
    """One token for each row of ``logits`` (rows, vocabulary), float32; lazily, (rows,)."""
    adjusted = [_adjust(logits[row], drawing) for row, drawing in enumerate(drawings)]
    if any(row is not None for row in adjusted):
        rows = [logits[i] if row is None else row for i, row in enumerate(adjusted)]
        logits = mx.stack(rows)
    if any(drawing.constraint is not None for drawing in drawings):
        logits = mx.where(_allowed(drawings, logits.shape[-1]), logits, -mx.inf)
    picked: dict[int, mx.array] = {}
    for way in (_take_likeliest, _sample, _sample_ranked):
        rows = [i for i, drawing in enumerate(drawings) if _way(drawing.sampling) is way]
        if rows:
            some = logits if len(rows) == len(drawings) else logits[mx.array(rows)]
            chosen = way(some, [drawings[i].sampling for i in rows], _thresholds(drawings, rows))
            picked.update({row: chosen[i] for i, row in enumerate(rows)})
    return mx.stack([picked[i] for i in range(len(drawings))])


def end_draw(
    tokens: mx.array, logits: mx.array, drawings: Sequence[SequenceSampler]
) -> list[SamplerOutput]:
    """What :func:`begin_draw` began, and what is reported of it."""
    drawn = [int(token) for token in _as_list(tokens)]
    reported = [i for i, drawing in enumerate(drawings) if reports(drawing)]
    details = _report(logits, drawings, drawn, reported) if reported else {}
    return [details.get(i, SamplerOutput(token)) for i, token in enumerate(drawn)]


def reports(drawing: SequenceSampler) -> bool:
    """Whether log-probabilities are wanted of the sequence's tokens."""
    return drawing.sampling.logprobs is not None


def _allowed(drawings: Sequence[SequenceSampler], vocabulary: int) -> mx.array:
    """(rows, vocabulary) bool: what each row's grammar allows next; all where there is none."""
    free = np.ones(vocabulary, dtype=np.bool_)
    rows = [free if d.constraint is None else d.constraint.allowed() for d in drawings]
    stacked: NDArray[Any] = np.stack(rows)
    return mx.array(stacked)


def _adjust(row: mx.array, drawing: SequenceSampler) -> mx.array | None:
    """The row with penalties, bias and the ban on stop ids; None when it stays as it is."""
    sampling = drawing.sampling
    changed = row
    if sampling.repetition_penalty != 1.0:
        seen = sorted(drawing.prompt | drawing.reply.keys())
        if seen:
            ids = mx.array(seen)
            values = changed[ids]
            penalty = sampling.repetition_penalty
            values = mx.where(values > 0, values / penalty, values * penalty)
            changed = mx.array(changed)
            changed[ids] = values
    if (sampling.presence_penalty or sampling.frequency_penalty) and drawing.reply:
        ids = mx.array(list(drawing.reply))
        counts = mx.array(list(drawing.reply.values()), dtype=mx.float32)
        penalty = sampling.presence_penalty + sampling.frequency_penalty * counts
        changed = changed.at[ids].add(-penalty)
    if sampling.logit_bias:
        in_vocabulary = [(i, b) for i, b in sampling.logit_bias if i < row.shape[0]]
        if in_vocabulary:
            ids = mx.array([i for i, _ in in_vocabulary])
            changed = changed.at[ids].add(mx.array([b for _, b in in_vocabulary]))
    if drawing.index < sampling.min_tokens and sampling.stop_ids:
        changed = mx.array(changed)
        changed[mx.array([i for i in sampling.stop_ids if i < row.shape[0]])] = -mx.inf
    return None if changed is row else changed


def _way(sampling: Sampling) -> Way:
    """How a row is drawn: by its own parameters alone, so that others never matter."""
    if sampling.temperature == 0:
        return _take_likeliest
    return _sample_ranked if sampling.top_p < 1 or sampling.top_k > 0 else _sample


def _thresholds(drawings: Sequence[SequenceSampler], rows: Sequence[int]) -> mx.array:
    return _column([uniform(drawings[i].sampling.seed, drawings[i].index) for i in rows])


def _column(values: Sequence[float]) -> mx.array:
    return mx.array(list(values))[:, None]


def _take_likeliest(
    logits: mx.array, samplings: Sequence[Sampling], thresholds: mx.array
) -> mx.array:
    return mx.argmax(logits, axis=-1)


def _sample(logits: mx.array, samplings: Sequence[Sampling], thresholds: mx.array) -> mx.array:
    """(rows, vocabulary) -> (rows,), by inverting the cumulative distribution."""
    return _invert(_probabilities(logits, samplings), thresholds)


def _sample_ranked(
    logits: mx.array, samplings: Sequence[Sampling], thresholds: mx.array
) -> mx.array:
    """The same among the likeliest tokens that top_k and top_p leave."""
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
    rank = _invert(ranked, thresholds)
    return mx.take_along_axis(order, rank[:, None], axis=-1)[:, 0]


def _probabilities(logits: mx.array, samplings: Sequence[Sampling]) -> mx.array:
    """After temperature and min_p."""
    probabilities = mx.softmax(logits / _column([s.temperature for s in samplings]), axis=-1)
    if all(s.min_p == 0 for s in samplings):
        return probabilities
    floor = _column([s.min_p for s in samplings]) * probabilities.max(axis=-1, keepdims=True)
    return mx.where(probabilities >= floor, probabilities, 0.0)


def _invert(probabilities: mx.array, threshold: mx.array) -> mx.array:
    """Index of the first entry at which the running sum passes ``threshold`` of the whole."""
    running = mx.cumsum(probabilities, axis=-1)
    return mx.argmax(running > threshold * running[:, -1:], axis=-1)


def _report(
    logits: mx.array,
    drawings: Sequence[SequenceSampler],
    tokens: Sequence[int],
    rows: Sequence[int],
) -> dict[int, SamplerOutput]:
    """Log-probabilities, before penalties, temperature and filters."""
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    details: dict[int, SamplerOutput] = {}
    for row in rows:
        count = drawings[row].sampling.logprobs or 0
        top: tuple[tuple[int, float], ...] = ()
        if count:
            ids = mx.argsort(-logprobs[row])[:count]
            values = _as_list(logprobs[row][ids])
            top = tuple((int(i), v) for i, v in zip(_as_list(ids), values, strict=True))
        details[row] = SamplerOutput(
            tokens[row], _as_list(logprobs[row, tokens[row]][None])[0], top
        )
    return details


def _as_list(array: mx.array) -> list[float]:
    return array.tolist()  # type: ignore[return-value]  # mlx types tolist as object
