"""A prediction calibrated on a pipeline reproduces that pipeline's measurements."""

from __future__ import annotations

import pytest

from pomona.messages.control import Prediction
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona_ops.bench.prediction import calibrate
from pomona_planner.cluster import from_beacons
from pomona_planner.cost_model.calibration import Calibration
from pomona_planner.cost_model.prediction import Plan, predict
from pomona_planner.cost_model.problem import Demand, Problem
from support.beacons import beacon_of


@pytest.mark.parametrize(
    ("stages_us", "tail_us", "round_trip_us"),
    [([19e3, 20e3], 5e3, 40e3), ([60e3, 25e3], 20e3, 120e3), ([2e3, 3e3], 100.0, 5100.0)],
)
def test_a_calibrated_prediction_equals_the_measurement(
    stages_us: list[float], tail_us: float, round_trip_us: float
) -> None:
    facts = {"device": "cpu", "usable_memory_bytes": 10**10, "memory_bandwidth": 9e9}
    workers = [
        beacon_of("stage_worker", "mac", name=f"mac.worker.{number}", facts=facts)
        for number in range(2)
    ]

    def predicted(calibration: Calibration) -> Prediction:
        problem = Problem(
            read_facts(EMBEDDED_MODEL),
            from_beacons.machines(workers, [], calibration),
            from_beacons.links(workers, [], calibration),
            Demand(cached_tokens=50),
        )
        return predict(problem, Plan((0, 1), (0, 18, 30)))

    names = [worker.name for worker in workers]
    calibration = calibrate(predicted(Calibration()), stages_us, tail_us, round_trip_us, names)
    prediction = predicted(calibration)
    assert sum(prediction.stage_us) == pytest.approx(sum(stages_us))
    assert prediction.tail_us == pytest.approx(tail_us)
    # Calibration scales only the latency of links; the bytes of one token take hardly any time.
    assert sum(prediction.link_us) == pytest.approx(round_trip_us - sum(stages_us), rel=0.02)
    assert prediction.tokens_per_second == pytest.approx(1e6 / round_trip_us, rel=0.01)
