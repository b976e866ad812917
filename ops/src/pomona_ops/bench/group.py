"""Cost of a tensor group beside its collectives: emulated ranks against an emulated stage."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import orjson

from pomona_ops.bench.clusters import BenchError
from pomona_ops.cluster.blas import blas_threads

DEADLINE_S = 600.0
TARGET_US = 300.0


async def run_group(
    sizes: tuple[int, ...], steps: int, rounds: int, hold_ms: float
) -> dict[str, Any]:
    """Measures groups of each size, one after another. Raises BenchError.

    Args:
        steps: decode steps of each round and side.
        hold_ms: duration of an emulated step, milliseconds.
    """
    return {f"{size} ranks": await _measure(size, steps, rounds, hold_ms) for size in sizes}


async def _measure(size: int, steps: int, rounds: int, hold_ms: float) -> dict[str, Any]:
    """Runs :mod:`pomona_stage_worker.testing.group_cost`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", "pomona_stage_worker.testing.group_cost",
        str(size), str(steps), str(rounds), str(hold_ms),
        env={**os.environ, **blas_threads(1)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            answer, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BenchError(f"the group of {size} ended with status {process.returncode}")
    cost = orjson.loads(answer)
    kinds = {"decode", "decode_tail", "decode_middle", "prefill_tail"}
    flat = {key: value for key, value in cost.items() if key not in kinds}
    for kind in sorted(kinds):
        flat |= {f"{kind}_{key}": value for key, value in cost[kind].items()}
    flat["target_us"] = TARGET_US
    flat["within_target"] = max(cost[k]["added_us"] for k in kinds if "decode" in k) <= TARGET_US
    return flat
