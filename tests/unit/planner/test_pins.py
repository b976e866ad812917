"""Pins assign layers to nodes."""

from __future__ import annotations

import pytest

from pomona_planner.control.pins import parse_pin
from support.planner_beacons import FACTS, GIGA, pinned_controller, ranges, worker


def test_a_pinned_node_holds_exactly_its_layers() -> None:
    found = pinned_controller("b=0..4").decide([worker("a"), worker("b")], 1, 0.0)
    assert ranges(found) == [("b", 0, 4), ("a", 4, 30)]


def test_a_pin_for_one_model_overrides_a_pin_for_every_model() -> None:
    planner = pinned_controller("b=0..9", f"b=0..5@{FACTS.name}", "a=1..2@other")
    assert ranges(planner.decide([worker("a"), worker("b")], 1, 0.0)) == [
        ("b", 0, 5),
        ("a", 5, 30),
    ]


def test_a_pin_may_name_a_worker_of_a_node_with_several() -> None:
    workers = [worker("m.0", node="m"), worker("m.1", node="m"), worker("n.0", node="n")]
    found = pinned_controller("m.1=26..30").decide(workers, 1, 0.0)
    assert ranges(found) == [("n.0", 0, 26), ("m.1", 26, 30)]


@pytest.mark.parametrize(
    ("pins", "reason"),
    [
        (["b=0..31"], "b is pinned to layers 0..31 of SmolLM2-135M-Instruct, which has 30 layers"),
        (["b=0..9", "a=8..30"], "b and a are both pinned to layer 8"),
        (["b=0..9", "a=10..30"], "fits, but not with the layers that are pinned to a, b"),
    ],
)
def test_impossible_pins_are_reported_with_the_setting(pins: list[str], reason: str) -> None:
    found = pinned_controller(*pins).decide([worker("a"), worker("b")], 1, 0.0)
    assert found.state == "impossible"
    assert reason in found.reason
    assert "POMONA_PLANNER_PINS" in found.reason


def test_pinned_layers_that_exceed_the_nodes_memory_are_reported() -> None:
    workers = [worker("a"), worker("b", memory=GIGA // 2)]
    found = pinned_controller("b=0..20").decide(workers, 1, 0.0)
    assert "b is pinned to layers 0..20" in found.reason
    assert "of its 0.5 GB" in found.reason


@pytest.mark.parametrize("text", ["b", "b=5", "b=5..2", "b=0..", "=0..3", "b=0..3@"])
def test_an_invalid_pin_is_rejected_with_the_expected_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"NODE=START\.\.STOP"):
        parse_pin(text)
