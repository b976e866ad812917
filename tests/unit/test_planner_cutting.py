"""Cuts balance time within memory: equal to brute force, and sensible on the default model."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.models import EMBEDDED_MODEL, LayerFacts, ModelFacts, read_facts
from pomona_planner.cutting import Seat, cache_tokens, cut, stage_cost, weight_bytes

MEGA = 1_000_000


def facts(layers: list[int], head: int, tied: bool) -> ModelFacts:
    return ModelFacts(
        name="m",
        path=Path("m"),
        format="folder",
        architecture="llama",
        hidden_size=64,
        vocab_size=1000,
        context_length=4096,
        tied_embedding=tied,
        layers=tuple(LayerFacts(2 * n * MEGA, n * MEGA, 1000) for n in layers),
        embedding=LayerFacts(2 * head * MEGA, head * MEGA, 0),
        head=LayerFacts(2 * head * MEGA, head * MEGA, 0),
        eos_token_ids=(2,),
    )


@settings(max_examples=200, deadline=None)
@given(
    layers=st.lists(st.integers(1, 40), min_size=2, max_size=9),
    head=st.integers(1, 200),
    memory=st.lists(st.integers(280, 1500), min_size=1, max_size=4),
    tied=st.booleans(),
    whole=st.booleans(),
)
def test_a_cut_is_as_good_as_the_best_of_all_cuts(
    layers: list[int], head: int, memory: list[int], tied: bool, whole: bool
) -> None:
    model = facts(layers, head, tied)
    seats = [Seat(f"w{i}", f"tcp://{i}", m * MEGA, whole) for i, m in enumerate(memory)]
    count = len(layers)
    best: int | None = None
    for inner in combinations(range(1, count), len(seats) - 1):
        ranges = list(pairwise((0, *inner, count)))
        if any(
            cache_tokens(model, a, b, seat) < 1024
            for (a, b), seat in zip(ranges, seats, strict=True)
        ):
            continue
        worst = max(stage_cost(model, a, b) for a, b in ranges)
        best = worst if best is None else min(best, worst)
    found = cut(model, seats, 1024)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert max(stage_cost(model, a, b) for a, b in pairwise(found.bounds)) == best
    assert found.cache_tokens >= 1024


def test_the_default_models_vocabulary_head_counts_as_several_layers() -> None:
    model = read_facts(EMBEDDED_MODEL)
    seats = [Seat("a", "tcp://a", 10**10, True), Seat("b", "tcp://b", 10**10, True)]
    found = cut(model, seats, 1024)
    assert found is not None
    first, second = found.bounds[1], model.layer_count - found.bounds[1]
    assert first + second == 30
    assert 5 <= first - second <= 9


def test_a_tied_embedding_is_held_by_head_and_tail_but_once_by_a_single_stage() -> None:
    model = facts([10, 10], 50, tied=True)
    whole = weight_bytes(model, 0, 2, whole_precision=False)
    parts = weight_bytes(model, 0, 1, False) + weight_bytes(model, 1, 2, False)
    assert parts - whole == 100 * MEGA


def test_a_seat_without_room_gets_no_stage() -> None:
    model = facts([100, 100, 100, 100], 10, tied=False)
    small = Seat("a", "tcp://a", 600 * MEGA, False)
    large = Seat("b", "tcp://b", 3000 * MEGA, False)
    found = cut(model, [small, large], 1024)
    assert found is not None
    assert found.bounds == (0, 1, 4)
    assert cut(model, [small, small], 1024) is None
