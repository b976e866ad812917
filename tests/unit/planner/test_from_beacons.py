"""From beacons to machines: noise makes no difference, real differences stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.messages.control import Beacon
from pomona.messages.discovery import Hardware
from pomona.models import EMBEDDED_MODEL, read_facts
from pomona_planner.cluster import from_beacons
from pomona_planner.cost_model.problem import Aim, Problem
from pomona_planner.solver.optimizer import OptimizedPlan, choose
from support.beacons import beacon_of

GIGA = 10**9
MINI = Hardware("Apple M4 Pro", 14, 64 * GIGA, 48 * GIGA, "macOS", "26.2")
STUDIO = Hardware("Apple M4 Max", 16, 64 * GIGA, 48 * GIGA, "macOS", "26.2")


def seen(
    *speeds: float,
    hardware: tuple[Hardware, ...] = (MINI, MINI),
    learnt: tuple[float, ...] = (),
    tail: float | None = None,
) -> Problem:
    """A node for each speed, bytes a second as its worker measured them."""
    workers: list[Beacon] = []
    discoveries: list[Beacon] = []
    for number, (speed, kind) in enumerate(zip(speeds, hardware, strict=True)):
        facts = {
            "device": "cpu",
            "usable_memory_bytes": 20 * GIGA,
            "memory_bandwidth": speed,
            "matrix_flops": 10 * speed,
            "layer_us": 4e12 / speed,
        }
        workers.append(beacon_of("stage_worker", f"n{number}", facts=facts))
        discoveries.append(beacon_of("discovery", f"n{number}", facts={"hardware": kind}))
    known = from_beacons.Calibration(
        stages={worker.name: factor for worker, factor in zip(workers, learnt, strict=False)},
        tail=tail,
    )
    return Problem(
        read_facts(EMBEDDED_MODEL),
        from_beacons.machines(workers, discoveries, known),
        from_beacons.links(workers, discoveries, known),
    )


def test_equal_machines_that_measured_a_little_apart_are_planned_as_equal() -> None:
    exact = choose(seen(9e9, 9e9), Aim(stages=2))
    for speeds, learnt in (((10e9, 8e9), ()), ((9e9, 9e9), (0.85, 1.15))):
        noisy = choose(seen(*speeds, learnt=learnt), Aim(stages=2))
        assert isinstance(exact, OptimizedPlan)
        assert isinstance(noisy, OptimizedPlan)
        assert noisy.plan.bounds == exact.plan.bounds
        first = noisy.plan.bounds[1]
        assert 5 <= first - (30 - first) <= 9, "balanced, the tail has the vocabulary"


def test_a_machine_that_is_really_slower_counts_as_slower() -> None:
    slow, *others = seen(4e9, 9e9, 10e9, hardware=(MINI,) * 3).machines
    assert slow.bandwidth == 4e9
    assert [machine.bandwidth for machine in others] == [9e9, 9e9]


def test_workers_of_one_machine_are_equal_whatever_they_measured_beside_each_other() -> None:
    speeds = (9e9, 3e9, 10e9)
    workers = [
        replace(
            beacon_of(
                "stage_worker",
                f"w{number}",
                facts={"device": "cpu", "usable_memory_bytes": GIGA, "memory_bandwidth": speed},
            ),
            node="one",
        )
        for number, speed in enumerate(speeds)
    ]
    known = from_beacons.Calibration(stages={workers[1].name: 4.0})
    machines = from_beacons.machines(workers, [], known)
    assert [machine.bandwidth for machine in machines] == [9e9] * 3
    assert [machine.correction for machine in machines] == [1.0] * 3


def test_machines_of_different_kinds_are_never_made_equal() -> None:
    mini, studio = seen(9e9, 10e9, hardware=(MINI, STUDIO)).machines
    assert (mini.bandwidth, studio.bandwidth) == (9e9, 10e9)


@pytest.mark.parametrize("factor", [0.2, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("tail", [None, 0.3, 2.0])
def test_a_prediction_never_exceeds_its_ceiling(factor: float, tail: float | None) -> None:
    found = choose(seen(9e9, 9e9, learnt=(factor, factor), tail=tail), Aim(stages=2))
    assert isinstance(found, OptimizedPlan)
    said = found.prediction
    assert said.tokens_per_second <= said.ceiling_tokens_per_second
