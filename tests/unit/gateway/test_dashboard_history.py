"""Samples of the last hour, and rates of stage workers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.cluster_report import cluster_report
from pomona.messages.control import StageWorkerFacts
from pomona_gateway.dashboard.history import FIELDS, SAMPLES, History
from pomona_gateway.dashboard.work_rates import WorkRates
from support.node_beacons import node_beacon, worker_beacon

REPORT = cluster_report("c", [worker_beacon("w1", 16, 30)])


def test_a_sample_has_the_time_of_the_first_tokens_since_the_one_before() -> None:
    history = History()
    history.add(REPORT, (2, 1.0), 0.25, 10.0)
    history.add(REPORT, (4, 4.0), 0.25, 15.0)
    history.add(REPORT, (4, 4.0), 0.25, 20.0)
    column = FIELDS.index("first_token_s")
    assert [sample[column] for sample in history.after(0)] == [0.5, 1.5, None]
    assert history.after(0)[0][FIELDS.index("tokens_per_second")] == 9.5


def test_an_hour_is_kept_and_no_more() -> None:
    history = History()
    for number in range(SAMPLES + 10):
        history.add(REPORT, (0, 0.0), 0.0, float(number))
    kept = history.after(0)
    assert len(kept) == SAMPLES
    assert kept[0][0] == 10.0
    assert len(history.after(history.added - 3)) == 3


def worker(compute_us: int) -> StageWorkerFacts:
    return StageWorkerFacts("metal", 1, 1, step_tokens=1, lanes=2, compute_us=compute_us)


def test_rates_come_from_the_counters_in_the_beacons() -> None:
    rates = WorkRates()
    for second in range(4):
        beacon = node_beacon("w", worker(second * 400_000))
        rates.on_beacon(replace(beacon, progress=second * 50), float(second))
    work = rates.work()["mac.w"]
    assert (work.steps_per_s, work.busy) == (50.0, 0.4)
    assert (work.step_tokens, work.lanes) == (1, 2)


def test_rates_of_another_process_begin_anew() -> None:
    rates = WorkRates()
    for second, steps in enumerate((100, 150, 0, 20)):
        beacon = node_beacon("w", worker(steps * 1000))
        rates.on_beacon(replace(beacon, progress=steps), float(second))
    assert rates.work()["mac.w"].steps_per_s == pytest.approx(20.0)
    rates.forget("mac.w")
    assert rates.work() == {}
