"""Test of the cost of a tensor group with emulated ranks."""

from __future__ import annotations

import asyncio

import pytest

from pomona_ops.bench.group import run_group


@pytest.mark.slow
def test_a_group_of_emulated_ranks_is_compared_with_a_stage_in_one_process() -> None:
    result = asyncio.run(run_group((2,), steps=8, rounds=1, hold_ms=1.0))
    cost = result["2 ranks"]
    assert cost["decode_steps"] == 8
    assert cost["decode_middle_alone_us"] >= 1000
    for kind in ("decode", "decode_tail", "decode_middle", "prefill_tail"):
        added = cost[f"{kind}_group_us"] - cost[f"{kind}_alone_us"]
        assert cost[f"{kind}_added_us"] == pytest.approx(added)
    assert cost["ring_8_mib_us"] > cost["ring_16_kib_us"] > 0
