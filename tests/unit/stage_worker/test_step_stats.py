"""What a stage says of its steps' times."""

from __future__ import annotations

from pomona.messages.pipeline import Step
from pomona_stage_worker.engine.step_timing import StepRecord, Timing


def ran(
    rows: tuple[int, ...], length: int, begin_us: int, elapsed_us: int, alone: bool
) -> StepRecord:
    step = Step(1, 0, rows, True)
    begin, end = begin_us * 1000, (begin_us + elapsed_us) * 1000
    return StepRecord(step, (len(rows), length), alone, begin, begin, end, end)


def test_a_pause_and_a_slow_first_step_do_not_bend_what_is_told() -> None:
    timing = Timing()
    begin = 0
    for number in range(20):
        slow = 500_000 if number in (0, 7) else 1_000
        timing.observe(ran((3,), 1, begin, slow, alone=True))
        begin += slow + 200
    assert timing.decode_us == 1_000
    assert timing.token_us == 1_200


def test_only_single_tokens_of_a_lone_sequence_count() -> None:
    timing = Timing()
    timing.observe(ran((3,), 128, 0, 12_800, alone=True))
    timing.observe(ran((3, 4), 1, 0, 9_000, alone=False))
    timing.observe(ran((3,), 1, 0, 1_000, alone=False))
    timing.observe(ran((3,), 1, 5_000, 1_000, alone=False))
    assert (timing.prefill_us, timing.decode_us, timing.token_us) == (100, 1_000, 0)
