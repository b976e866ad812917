"""Step times are medians over the right steps, and steps are counted in time."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from pomona.messages.pipeline import Step
from pomona_stage_worker.engine.step_stats import MAX_PENDING, StepRecord, StepStats, StepTimes
from pomona_stage_worker.model.warmup import NO_WARMUP


def record(
    rows: tuple[int, ...], length: int, begin_us: int, elapsed_us: int, alone: bool
) -> StepRecord:
    step = Step(1, 0, rows, True)
    begin, end = begin_us * 1000, (begin_us + elapsed_us) * 1000
    return StepRecord(step, (len(rows), length), alone, begin, begin, end, end)


def test_medians_ignore_a_pause_and_a_slow_first_step() -> None:
    times = StepTimes()
    begin = 0
    for number in range(20):
        slow = 500_000 if number in (0, 7) else 1_000
        times.observe(record((3,), 1, begin, slow, alone=True))
        begin += slow + 200
    assert times.decode_us == 1_000
    assert times.token_us == 1_200


def test_token_time_counts_only_single_tokens_of_a_lone_sequence() -> None:
    times = StepTimes()
    times.observe(record((3,), 128, 0, 12_800, alone=True))
    times.observe(record((3, 4), 1, 0, 9_000, alone=False))
    times.observe(record((3,), 1, 0, 1_000, alone=False))
    times.observe(record((3,), 1, 5_000, 1_000, alone=False))
    assert (times.prefill_us, times.decode_us, times.token_us) == (100, 1_000, 0)


@pytest.mark.parametrize(
    ("elapsed_us", "steps", "counted"),
    [
        (1_000, MAX_PENDING - 1, 0),
        (1_000, MAX_PENDING, MAX_PENDING),
        (4_000_000, 1, 1),
        (600_000, 3, 2),
    ],
)
def test_long_steps_are_counted_soon_and_short_ones_together(
    elapsed_us: int, steps: int, counted: int
) -> None:
    model = f"{elapsed_us} us, {steps} steps"
    stats = StepStats(model, NO_WARMUP, None, None)
    for number in range(steps):
        stats.add(record((3,), 512, number * elapsed_us, elapsed_us, alone=True))
    assert REGISTRY.get_sample_value("pomona_stage_steps_total", {"model_name": model}) == counted
