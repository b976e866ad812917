"""The workspace of a prefill chunk is measured at the promised context."""

from __future__ import annotations

from statistics import median

import mlx.core as mx
import pytest
from mlx_lm.models import llama

from pomona_stage_worker.model import workspace
from pomona_stage_worker.model.workspace import extrapolate, measure_workspace
from pomona_stage_worker.slicing import StageModel, slice_model
from support.models.folders import CONFIG


def stage(start: int = 0, stop: int = 2) -> StageModel:
    config = {**CONFIG, "num_hidden_layers": 3, "head_dim": 64}
    return slice_model(llama.Model(llama.ModelArgs.from_dict(config)), start, stop)


@pytest.mark.parametrize("bits", [0, 8])
def test_a_longer_context_takes_more_workspace(bits: int) -> None:
    model = stage(1, 3)
    short = measure_workspace(model, 32, 64, bits, mx)
    long = measure_workspace(model, 32, 2048, bits, mx)
    scores = CONFIG["num_attention_heads"] * 32 * 2048 * 4
    assert 0 < short < long
    assert long >= scores, "a CPU has no fused attention: the scores of a layer are in memory"


@pytest.mark.slow
def test_a_trial_that_takes_too_long_is_continued_as_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workspace, "TRIAL_S", 0.0)
    monkeypatch.setattr(workspace, "FIRST_CONTEXT", 128)
    model = stage()

    def measured() -> float:
        """Returns a median: the peak depends on which arrays are alive at the same time."""
        return median(measure_workspace(model, 32, 1024, 0, mx) for _ in range(5))

    estimated = measured()
    monkeypatch.setattr(workspace, "TRIAL_S", 60.0)
    assert estimated == pytest.approx(measured(), rel=0.6)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(100, 10)], 10),
        ([(100, 10), (200, 20)], 100),
        ([(100, 10), (200, 10)], 10),
        ([(100, 10), (200, 5)], 5),
        ([(500, 7), (1000, 70)], 70),
    ],
)
def test_the_line_through_the_last_two_is_continued(
    found: list[tuple[int, int]], expected: int
) -> None:
    assert extrapolate(found, 1000) == expected
