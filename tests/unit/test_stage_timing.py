"""What a stage says of its steps' times."""

from __future__ import annotations

from pomona.messages.data import Step
from pomona_stage_worker.timing import Timing


def step(number: int, *rows: int) -> Step:
    return Step("step", number, 0, rows, True)


def test_a_pause_and_a_slow_first_step_do_not_bend_what_is_told() -> None:
    timing = Timing()
    begin = 0
    for number in range(20):
        slow = 500_000 if number in (0, 7) else 1_000
        timing.observe(step(number, 3), (1, 1), begin * 1000, slow, alone=True)
        begin += slow + 200
    assert timing.decode_us == 1_000
    assert timing.token_us == 1_200


def test_only_single_tokens_of_a_lone_sequence_count() -> None:
    timing = Timing()
    timing.observe(step(1, 3), (1, 128), 0, 12_800, alone=True)
    timing.observe(step(2, 3, 4), (2, 1), 0, 9_000, alone=False)
    timing.observe(step(3, 3), (1, 1), 0, 1_000, alone=False)
    timing.observe(step(4, 3), (1, 1), 5_000_000, 1_000, alone=False)
    assert (timing.prefill_us, timing.decode_us, timing.token_us) == (100, 1_000, 0)
