"""Tests of the predicted time of a tensor group."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.models import ModelFacts
from pomona.models.published import published_facts
from pomona_planner.cost_model.problem import Demand, Machine
from pomona_planner.cost_model.tensor_group import (
    STEP_S,
    group_time,
    load_collectives,
    rank_bytes,
)


def facts_of(name: str) -> ModelFacts:
    found = published_facts(name, 8.5, 8.5)
    assert found is not None
    return found


MACHINE = Machine("m", 400 << 30, 600e9, 30e12)
FACTS = facts_of("qwen3-235b-a22b")
JACCL = load_collectives()["jaccl"]
DEMAND = Demand(cached_tokens=256)


def test_a_group_divides_reading_and_repeats_the_rest() -> None:
    one = group_time(FACTS, MACHINE, 1, JACCL, DEMAND)
    two = group_time(FACTS, MACHINE, 2, JACCL, DEMAND)
    assert two.divided == pytest.approx(one.divided / 2)
    assert two.repeated == pytest.approx(one.repeated)
    assert one.collectives == 0


def test_two_sums_a_layer_are_exchanged() -> None:
    collective = replace(JACCL, latency_s=1e-3, bandwidth=1e12)
    found = group_time(FACTS, MACHINE, 2, collective, DEMAND).collectives
    assert found == pytest.approx(2 * len(FACTS.layers) * 1e-3 + STEP_S, rel=0.01)


def test_a_slow_collective_makes_a_group_slower_than_one_machine() -> None:
    one = group_time(FACTS, MACHINE, 1, JACCL, DEMAND)
    assert group_time(FACTS, MACHINE, 2, JACCL, DEMAND).seconds < one.seconds
    ring = load_collectives()["ring"]
    assert group_time(FACTS, MACHINE, 2, ring, DEMAND).seconds > one.seconds


def test_latent_caches_are_not_divided() -> None:
    facts = facts_of("deepseek-v3")
    short = group_time(facts, MACHINE, 2, JACCL, Demand(cached_tokens=0))
    long = group_time(facts, MACHINE, 2, JACCL, Demand(cached_tokens=100_000))
    assert long.divided == pytest.approx(short.divided)
    assert long.repeated > short.repeated


def test_a_rank_holds_a_part_of_the_layers_and_both_ends() -> None:
    whole = rank_bytes(FACTS, 1)
    layers = sum(layer.stored_bytes for layer in FACTS.layers)
    assert rank_bytes(FACTS, 2) == pytest.approx(whole - layers / 2)
