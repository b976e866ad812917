"""Decode speed for one user: a pipeline against mlx-lm alone in one process, in turns."""

from __future__ import annotations

import asyncio
from typing import Any

from pomona.messages.sampling import Sampling
from pomona_ops.bench.clusters import running_baseline, running_cluster
from pomona_ops.bench.driver import Driver, active_pipeline
from pomona_ops.bench.hop import measure_hops
from pomona_ops.bench.numbers import median, rate
from pomona_ops.bench.prompts import made_up_prompt
from pomona_ops.cluster.ports import LOOPBACK

PROMPT_TOKENS = 32
STOCK_KERNELS = {"POMONA_STAGE_WORKER_STOCK_KERNELS": "true"}


async def measure_decode(
    model: str, stages: int, rounds: int, tokens: int, stock_kernels: bool = False
) -> dict[str, Any]:
    """Measures tokens per second of both sides. Each process has one core and one BLAS thread.

    Args:
        stock_kernels: run the stages with MLX's own CPU kernels, as mlx-lm alone does. The ratio
            then predicts that of a Mac.
    """
    ours: list[float] = []
    theirs: list[float] = []
    same_tokens = True
    environment = STOCK_KERNELS if stock_kernels else {}
    async with (
        running_cluster(model, stages, worker_environment=environment, one_core=True) as options,
        running_baseline(model, threads=1) as baseline,
    ):
        endpoint = f"tcp://{LOOPBACK}:{options.ports.control_subscribe}"
        pipeline = await active_pipeline(endpoint, options.cluster, 10.0)
        with Driver(pipeline, options.cluster) as driver:
            for number in range(rounds):
                await asyncio.sleep(0.5)
                ids = made_up_prompt(PROMPT_TOKENS, number)
                answer = await baseline.run([ids], tokens)
                theirs.append(rate(answer["seconds"]))
                await asyncio.sleep(0.5)
                reply = driver.submit(ids, Sampling(max_tokens=tokens, temperature=0.0))
                driver.collect([reply])
                ours.append(rate(reply.moments))
                same_tokens &= reply.tokens == answer["tokens"][0]
    return {
        "stages": stages,
        "rounds": rounds,
        "tokens": tokens,
        "stock_kernels": stock_kernels,
        "same_tokens": same_tokens,
        "tokens_per_second": median(ours),
        "mlx_lm_tokens_per_second": median(theirs),
        "ratio": median([a / b for a, b in zip(ours, theirs, strict=True)]),
    }


async def run_decode(
    model: str, stages: int, rounds: int, tokens: int, stock_kernels: bool = False
) -> dict[str, Any]:
    return {
        "decode": await measure_decode(model, stages, rounds, tokens, stock_kernels),
        "bus": await measure_hops(model),
    }
