"""Memory of stages, as the solver and the cache limits count it."""

from __future__ import annotations

from itertools import combinations

from pomona_planner.cost_model.memory import cache_tokens, stage_bytes, weight_bytes
from pomona_planner.cost_model.problem import Demand, Machine, Problem
from support.planner_instances import MEGA, small_model


def test_a_stage_needs_just_the_memory_in_which_its_tokens_fit() -> None:
    machine = Machine("a", 4000 * MEGA, 1e11, 1e12)
    for tied in (False, True):
        facts = small_model([50, 80, 50], tied=tied)
        problem = Problem(facts, (machine,), demand=Demand(2048, 2))
        needed = stage_bytes(problem)[0]
        for start, stop in combinations(range(4), 2):
            size = int(needed[start, stop]) + 1
            tokens = cache_tokens(facts, start, stop, size, False, users=2)
            assert tokens >= 4095, (start, stop)
            less = cache_tokens(facts, start, stop, size - 2 * MEGA, False, users=2)
            assert less < 4096, (start, stop)


def test_a_tied_embedding_is_held_by_head_and_tail_but_once_by_a_single_stage() -> None:
    facts = small_model([10, 10], 50, tied=True)
    whole = weight_bytes(facts, 0, 2, full_precision=False)
    parts = weight_bytes(facts, 0, 1, False) + weight_bytes(facts, 1, 2, False)
    assert parts - whole == 100 * MEGA
