"""Splits the time of one decode step into compute and hops, for one user."""

from __future__ import annotations

import asyncio
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from pomona.messages.sampling import Sampling
from pomona_ops.bench.clusters import BenchError, running_cluster
from pomona_ops.bench.driver import Driver, active_pipeline
from pomona_ops.bench.numbers import median
from pomona_ops.bench.prompts import made_up_prompt
from pomona_ops.cluster.ports import LOOPBACK


async def run_trace(
    model: str, stages: int, tokens: int, hold_ms: float | None = None
) -> dict[str, Any]:
    """Measures the median milliseconds of each part of a decode step.

    Args:
        hold_ms: trace emulated stages that hold each step this long.
    """
    with tempfile.TemporaryDirectory(prefix="pomona-trace-") as folder:
        variables = {"POMONA_STAGE_WORKER_TRACE_DIR": folder}
        async with running_cluster(model, stages, hold_ms, variables, one_core=True) as options:
            endpoint = f"tcp://{LOOPBACK}:{options.ports.control_subscribe}"
            pipeline = await active_pipeline(endpoint, options.cluster, 10.0)
            with Driver(pipeline, options.cluster) as driver:
                reply = driver.submit(
                    made_up_prompt(32), Sampling(max_tokens=tokens, temperature=0.0)
                )
                driver.collect([reply])
            await asyncio.sleep(1.5)
        names = [stage.worker for stage in pipeline.stages]
        return _summarize(
            [_read(Path(folder) / f"{name}.jsonl") for name in names], median(reply.intervals)
        )


def _read(path: Path) -> dict[int, dict[str, int]]:
    """Reads the decode steps of one worker, by step number."""
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return {line["step"]: line for line in lines if line["lane"] is not None}


def _summarize(stages: list[dict[int, dict[str, int]]], interval_s: float) -> dict[str, Any]:
    common = sorted(set.intersection(*(set(stage) for stage in stages)))[4:]
    pairs = [(a, b) for a, b in pairwise(common) if b == a + 1]
    if not pairs:
        raise BenchError("the trace holds no two consecutive steps; raise --tokens")

    def ms(values: list[int]) -> float:
        return median(values) / 1e6

    parts: dict[str, float] = {}
    for index, stage in enumerate(stages):
        rows = [stage[step] for step in common]
        parts[f"stage {index}: build the graph"] = ms([r["built"] - r["begin"] for r in rows])
        parts[f"stage {index}: compute"] = ms([r["computed"] - r["built"] for r in rows])
        parts[f"stage {index}: encode and send"] = ms([r["sent"] - r["computed"] for r in rows])
        if index + 1 < len(stages):
            after = [stages[index + 1][step]["begin"] - stage[step]["sent"] for step in common]
            parts[f"hop {index} to {index + 1}"] = ms(after)
    back = [stages[0][b]["begin"] - stages[-1][a]["sent"] for a, b in pairs]
    parts[f"hop {len(stages) - 1} to 0, and schedule"] = ms(back)
    total = sum(parts.values())
    return {
        "milliseconds of one token": parts,
        "sums": {
            "all parts": total,
            "between tokens at the client": interval_s * 1e3,
            "compute, share": sum(v for k, v in parts.items() if "compute" in k) / total,
        },
    }
