"""Tests logprobs against numpy."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from pomona_stage_worker.sampling.logprobs import token_logprobs

VOCABULARY = 50


@pytest.mark.parametrize("count", [0, 1, 5, VOCABULARY])
def test_targets_and_most_likely_ids_get_their_logprobs(count: int) -> None:
    mx.random.seed(3)
    logits = mx.random.normal((4, VOCABULARY))
    targets = np.array([7, 0, 49, 7])
    exact = np.asarray(logits, dtype=np.float64)
    exact = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
    own, ids, top = token_logprobs(logits, mx.array(targets), count)
    assert np.asarray(own) == pytest.approx(exact[np.arange(4), targets], abs=1e-5)
    most_likely = np.argsort(-exact, axis=-1)[:, :count]
    assert np.asarray(ids).tolist() == most_likely.tolist()
    assert np.asarray(top) == pytest.approx(np.take_along_axis(exact, most_likely, -1), abs=1e-5)
    assert (ids.dtype, ids.shape, top.shape) == (mx.int32, (4, count), (4, count))
