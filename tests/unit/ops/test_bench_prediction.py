"""A prediction that was calibrated by a pipeline says of that pipeline what was measured."""

from __future__ import annotations

import pytest

from pomona.models import EMBEDDED_MODEL, read_facts
from pomona_ops.bench.prediction import calibrated
from pomona_planner.cluster import from_beacons
from pomona_planner.cost_model.prediction import Plan, Prediction, predict
from pomona_planner.cost_model.problem import Demand, Problem
from support.beacons import beacon_of


@pytest.mark.parametrize(
    ("stages_us", "tail_us", "whole_us"),
    [([19e3, 20e3], 5e3, 40e3), ([60e3, 25e3], 20e3, 120e3), ([2e3, 3e3], 100.0, 5100.0)],
)
def test_a_calibrated_prediction_is_what_was_measured(
    stages_us: list[float], tail_us: float, whole_us: float
) -> None:
    facts = {"device": "cpu", "usable_memory_bytes": 10**10, "memory_bandwidth": 9e9}
    workers = [
        beacon_of("stage_worker", "mac", name=f"mac.worker.{number}", facts=facts)
        for number in range(2)
    ]

    def predicted(learnt: from_beacons.Calibration) -> Prediction:
        problem = Problem(
            read_facts(EMBEDDED_MODEL),
            from_beacons.machines(workers, [], learnt),
            from_beacons.links(workers, [], learnt),
            Demand(cached_tokens=50),
        )
        return predict(problem, Plan((0, 1), (0, 18, 30)))

    names = [worker.name for worker in workers]
    learnt = calibrated(predicted(from_beacons.Calibration()), stages_us, tail_us, whole_us, names)
    said = predicted(learnt)
    assert sum(said.stage_s) * 1e6 == pytest.approx(sum(stages_us))
    assert said.tail_s * 1e6 == pytest.approx(tail_us)
    # What is learnt of links is their latency; the bytes of one token take next to nothing.
    assert sum(said.link_s) * 1e6 == pytest.approx(whole_us - sum(stages_us), rel=0.02)
    assert said.tokens_per_second == pytest.approx(1e6 / whole_us, rel=0.01)
