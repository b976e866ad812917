"""Times of kernels: each kind of layer costs its fitted time, and a CPU's costs stay alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pomona.models import LayerFacts
from pomona.models.published import published_facts
from pomona_planner.cluster.decode_times import load_decode_times
from pomona_planner.cluster.from_spec import hypothetical_problem, link_by_name, parse_cluster
from pomona_planner.cost_model.cost_arrays import step_costs
from pomona_planner.cost_model.kernel_times import UNIFORM, KernelTimes
from pomona_planner.cost_model.problem import Demand, Machine, Problem
from pomona_planner.cost_model.roofline import read_seconds

TIMES = KernelTimes(
    latent=4.0, linear=3.0, sliding=2.0, experts=0.5, bandwidth=((4.5, 1.0), (8.5, 0.8))
)


def layer(bits: float = 4.5, **facts: Any) -> LayerFacts:
    kv_values = 0 if "state_values" in facts else 64
    return LayerFacts(int(1e6 * bits / 8), 1_000_000, kv_values, **facts)


@pytest.mark.parametrize(
    ("facts", "multiple"),
    [
        ({}, 1.0),
        ({"latent": True}, 4.0),
        ({"state_values": 100}, 3.0),
        ({"window": 128}, 2.0),
        ({"idle_bytes": 100, "idle_parameters": 100}, 1.5),
        ({"latent": True, "idle_bytes": 100, "idle_parameters": 100}, 4.5),
    ],
)
def test_a_layer_costs_the_multiple_of_its_attention_and_experts(
    facts: dict[str, Any], multiple: float
) -> None:
    assert TIMES.layer(layer(**facts)) == multiple
    assert UNIFORM.layer(layer(**facts)) == 1.0


@pytest.mark.parametrize(
    ("bits", "factor"), [(4.25, 1.0), (4.5, 1.0), (6.5, 0.9), (8.5, 0.8), (16.0, 0.8)]
)
def test_bandwidth_lies_on_lines_between_the_known_widths(bits: float, factor: float) -> None:
    assert TIMES.bandwidth_factor(layer(bits)) == pytest.approx(factor)


def test_a_machine_in_full_precision_reads_float32_at_its_own_bandwidth() -> None:
    machine = Machine("cpu", 1 << 40, 1e9, 1e12, kernels=TIMES, full_precision=True)
    assert read_seconds(layer(8.5), machine, 1) == 4e6 / 1e9


def test_a_model_with_latent_attention_pays_for_its_kernels_in_every_layer() -> None:
    facts = published_facts("deepseek-v3")
    assert facts is not None
    machine = Machine("m", 1 << 50, 1e30, 1e30, layer_s=1e-3, step_s=0.0)

    def seconds(kernels: KernelTimes) -> float:
        kind = replace(machine, kernels=kernels)
        costs = step_costs(Problem(facts, (kind,), demand=Demand()), 1)
        return float(costs.before[0, -1])

    assert seconds(UNIFORM) == pytest.approx(61e-3)
    assert seconds(TIMES) == pytest.approx((61 * 4 + 58 * 0.5) * 1e-3)


def test_ultra_and_older_chips_run_small_kernels_slower() -> None:
    times = load_decode_times()
    assert times.layer_s("Apple M4 Max") == times.layer_us / 1e6
    assert times.layer_s("Apple M3 Ultra") == pytest.approx(
        times.layer_s("Apple M4 Max") * times.ultra_layers
    )
    assert times.layer_s("Apple M2 Ultra") == pytest.approx(
        times.layer_s("Apple M3 Ultra") * times.older_layers
    )
    assert times.bandwidth("Apple M3 Ultra", 1e9) < times.bandwidth("Apple M4 Max", 1e9) < 1e9


@pytest.mark.parametrize(
    ("spec", "gigabytes_per_s"),
    [
        ("m4-max-32c-36gb", 410),
        ("m4-max-64gb", 546),
        ("m5-pro-64gb", 307),
        ("m5-max-32c-36gb", 460),
        ("m5-max-128gb", 614),
    ],
)
def test_chips_with_two_bandwidths_are_two_machines(spec: str, gigabytes_per_s: int) -> None:
    facts = published_facts("qwen3-4b")
    assert facts is not None
    problem = hypothetical_problem(facts, parse_cluster(spec), link_by_name("tb5"), Demand())
    achieved = load_decode_times().achieved
    assert problem.machines[0].bandwidth == pytest.approx(gigabytes_per_s * 1e9 * achieved)
