"""Noise between equal machines is evened out, and real differences stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.messages.control import Beacon
from pomona.messages.discovery import Hardware
from pomona_planner.cluster import from_beacons
from pomona_planner.cluster.decode_times import load_decode_times
from pomona_planner.cost_model.calibration import Calibration
from pomona_planner.cost_model.kernel_times import UNIFORM
from pomona_planner.cost_model.problem import Aim
from pomona_planner.solver.optimizer import OptimizedPlan, choose
from support.beacons import beacon_of
from support.planner_instances import GIGA, MINI, problem_from_beacons

STUDIO = Hardware("Apple M4 Max", 16, 64 * GIGA, 48 * GIGA, "macOS", "26.2")


def test_machines_that_differ_only_by_noise_are_planned_as_equal() -> None:
    exact = choose(problem_from_beacons(9e9, 9e9), Aim(stages=2))
    for speeds, factors in (((10e9, 8e9), ()), ((9e9, 9e9), (0.85, 1.15))):
        noisy = choose(problem_from_beacons(*speeds, factors=factors), Aim(stages=2))
        assert isinstance(exact, OptimizedPlan)
        assert isinstance(noisy, OptimizedPlan)
        assert noisy.plan.bounds == exact.plan.bounds
        first = noisy.plan.bounds[1]
        assert 5 <= first - (30 - first) <= 9, "balanced, since the tail has the vocabulary"


def test_a_machine_that_is_slower_than_noise_keeps_its_own_speed() -> None:
    slow, *others = problem_from_beacons(4e9, 9e9, 10e9, hardware=(MINI,) * 3).machines
    assert slow.bandwidth == 4e9
    assert [machine.bandwidth for machine in others] == [9e9, 9e9]


def test_workers_of_one_node_are_equal_whatever_they_measured() -> None:
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
    calibration = Calibration(stages={workers[1].name: 4.0})
    machines = from_beacons.machines(workers, [], calibration)
    assert [machine.bandwidth for machine in machines] == [9e9] * 3
    assert [machine.correction for machine in machines] == [1.0] * 3


def test_machines_of_different_kinds_are_never_evened() -> None:
    mini, studio = problem_from_beacons(9e9, 10e9, hardware=(MINI, STUDIO)).machines
    assert (mini.bandwidth, studio.bandwidth) == (9e9, 10e9)


def unmeasured(device: str, hardware: Hardware) -> tuple[Beacon, Beacon]:
    """Returns a worker without measurements, and the discovery service of its node."""
    facts = {"device": device, "usable_memory_bytes": GIGA}
    worker = replace(beacon_of("stage_worker", "w0", facts=facts), node="one")
    discovery = beacon_of("discovery", "d0", facts={"hardware": hardware})
    return worker, replace(discovery, node="one")


def test_the_constants_of_a_cpu_treat_all_layers_alike() -> None:
    worker, discovery = unmeasured("cpu", MINI)
    (machine,) = from_beacons.machines([worker], [discovery], Calibration())
    assert (machine.bandwidth, machine.compute, machine.layer_s) == (8e9, 50e9, 400e-6)
    assert machine.kernels == UNIFORM


@pytest.mark.parametrize(("gib", "gigabytes_per_s"), [(36, 410), (64, 546)])
def test_memory_tells_the_two_chips_called_m4_max_apart(gib: int, gigabytes_per_s: int) -> None:
    hardware = replace(STUDIO, memory_bytes=gib << 30)
    worker, discovery = unmeasured("metal", hardware)
    (machine,) = from_beacons.machines([worker], [discovery], Calibration())
    times = load_decode_times()
    assert machine.bandwidth == pytest.approx(gigabytes_per_s * 1e9 * times.achieved)
    assert machine.layer_s == times.layer_us / 1e6
    assert machine.kernels == times.kernels
