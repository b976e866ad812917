"""Logprobs of chosen tokens and of the most likely ones."""

from __future__ import annotations

import mlx.core as mx


def token_logprobs(
    logits: mx.array, targets: mx.array, count: int
) -> tuple[mx.array, mx.array, mx.array]:
    """Computes the logprobs of ``targets`` and of the ``count`` most likely ids.

    Args:
        logits: float32 (n, vocabulary).
        targets: integers (n,).

    Returns:
        Evaluated: logprobs of the targets, float32 (n,); ids, int32 (n, count), most likely
        first; their logprobs, float32 (n, count).
    """
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    own = mx.take_along_axis(logits, targets[:, None], axis=-1) - total
    ids = _top_ids(logits, count)
    top = mx.take_along_axis(logits, ids, axis=-1) - total
    results = own[:, 0], ids.astype(mx.int32), top
    mx.eval(results)
    return results


def _top_ids(logits: mx.array, count: int) -> mx.array:
    """Returns the ids (n, count) of the largest logits, in descending order."""
    if count == 0:
        return mx.zeros((logits.shape[0], 0), dtype=mx.int32)
    if count == 1:
        return mx.argmax(logits, axis=-1, keepdims=True)
    if count < logits.shape[-1]:
        candidates = mx.argpartition(-logits, count - 1, axis=-1)[:, :count]
    else:
        candidates = mx.broadcast_to(mx.arange(logits.shape[-1]), logits.shape)
    order = mx.argsort(-mx.take_along_axis(logits, candidates, axis=-1), axis=-1)
    return mx.take_along_axis(candidates, order, axis=-1)
