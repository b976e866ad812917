"""Step times are medians over the right steps."""

from __future__ import annotations

from pomona.messages.pipeline import Step
from pomona_stage_worker.engine.step_stats import StepRecord, StepTimes


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
