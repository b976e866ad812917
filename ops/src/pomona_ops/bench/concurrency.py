"""Concurrent users: real stages beside mlx-lm, and emulated stages for the transport alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pomona.messages.sampling import Sampling
from pomona_ops.bench.clusters import Baseline, running_baseline, running_cluster
from pomona_ops.bench.driver import Driver, Reply, active_pipeline
from pomona_ops.bench.numbers import median, percentile, total_rate
from pomona_ops.bench.prompts import made_up_prompt
from pomona_ops.cluster.ports import LOOPBACK
from pomona_ops.cluster.processes import ClusterOptions

REST_S = 0.5
PROMPT = 32
FEW_TOKENS = 128
PAIRS = 5
"""Measurements of two users a round, each between two of one user. A shared machine slows down
for seconds at a time, so the median needs several pairs."""
MANY_TOKENS = 160
"""Prefill is sequential: the first of eight replies must last until the last one starts."""
LONG_PROMPT = 2000
HISTORY = 1500
EMULATED_STAGES = 8
HOLD_MS = 10.0


async def connect(options: ClusterOptions) -> Driver:
    """Connects a driver to the cluster's pipeline."""
    endpoint = f"tcp://{LOOPBACK}:{options.ports.control_subscribe}"
    return Driver(await active_pipeline(endpoint, options.cluster, 10.0), options.cluster)


async def run_engine(model: str, rounds: int) -> dict[str, Any]:
    """Runs both measurements."""
    return await measure_emulated(model, rounds) | await measure_real(model, rounds)


class UniquePrompts:
    """Makes prompts that are all different, so that none is in the prefix cache."""

    def __init__(self) -> None:
        self._next = 0

    def next(self, length: int) -> list[int]:
        self._next += 1
        return made_up_prompt(length, self._next)


async def users(
    driver: Driver, prompts: UniquePrompts, count: int, tokens: int, length: int = PROMPT
) -> list[Reply]:
    """Runs ``count`` requests at the same time, after REST_S."""
    await asyncio.sleep(REST_S)
    greedy = Sampling(max_tokens=tokens, temperature=0.0)
    replies = [driver.submit(prompts.next(length), greedy) for _ in range(count)]
    driver.collect(replies)
    return replies


def throughput(replies: Sequence[Reply]) -> float:
    """Tokens per second of all replies together, while all are running."""
    return total_rate([reply.moments for reply in replies])


# Real ------------------------------------------------------------------------------------


async def measure_real(model: str, rounds: int) -> dict[str, Any]:
    """Compares two stages, with one core and one BLAS thread each, with mlx-lm on these cores."""
    prompts = UniquePrompts()
    async with running_cluster(model, 2, one_core=True) as options:
        with await connect(options) as driver:
            async with running_baseline(model, threads=2) as two_threads:
                crowd = await _measure_users(driver, two_threads, prompts, rounds)
            async with running_baseline(model, threads=1) as one_thread:
                first = await _measure_first_token(driver, one_thread, prompts, rounds)
            return {
                "users": crowd,
                "first_token": first,
                "interference": await _measure_interference(driver, prompts, rounds),
                "second_turn": await _measure_second_turn(driver, prompts, rounds),
            }


async def _measure_users(
    driver: Driver, baseline: Baseline, prompts: UniquePrompts, rounds: int
) -> dict[str, Any]:
    one: list[float] = []
    two: list[float] = []
    eight: list[float] = []
    theirs: list[float] = []
    for number in range(1 + rounds):
        before = throughput(await users(driver, prompts, 1, FEW_TOKENS))
        for _ in range(PAIRS if number else 1):
            two.append(throughput(await users(driver, prompts, 2, FEW_TOKENS)))
            after = throughput(await users(driver, prompts, 1, FEW_TOKENS))
            one.append((before + after) / 2)
            before = after
        await asyncio.sleep(REST_S)
        answer = await baseline.run([prompts.next(PROMPT) for _ in range(8)], MANY_TOKENS)
        steps = answer["seconds"]
        theirs.append(8 * (len(steps) - 1) / (steps[-1] - steps[0]))
        eight.append(throughput(await users(driver, prompts, 8, MANY_TOKENS)))
    # The first round is warm-up: MLX compiles and the scheduler tries lane counts.
    for rates in (one, two, eight, theirs):
        del rates[0]
    return {
        "one_user_tokens_per_second": median(one),
        "two_users_tokens_per_second": median(two),
        "eight_users_tokens_per_second": median(eight),
        "mlx_lm_batch_of_eight_tokens_per_second": median(theirs),
        "two_users_over_one": _ratio(two, one),
        "eight_users_over_mlx_lm": _ratio(eight, theirs),
    }


async def _measure_first_token(
    driver: Driver, baseline: Baseline, prompts: UniquePrompts, rounds: int
) -> dict[str, Any]:
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        await asyncio.sleep(REST_S)
        answer = await baseline.run([prompts.next(LONG_PROMPT)], 2)
        theirs.append(answer["first_token_s"])
        (reply,) = await users(driver, prompts, 1, 2, LONG_PROMPT)
        ours.append(reply.first_token_s)
    return {
        "prompt_tokens": LONG_PROMPT,
        "two_stages_s": median(ours),
        "mlx_lm_one_process_one_thread_s": median(theirs),
        "ratio": _ratio(ours, theirs),
    }


async def _measure_interference(
    driver: Driver, prompts: UniquePrompts, rounds: int
) -> dict[str, Any]:
    """Time between tokens of a stream, alone and during the prefill of a long prompt."""
    idle: list[float] = []
    busy: list[float] = []
    reading: list[float] = []
    for _ in range(rounds):
        await asyncio.sleep(REST_S)
        stream = driver.submit(prompts.next(PROMPT), Sampling(max_tokens=4000, temperature=0.0))
        while len(stream.tokens) < 40:
            driver.receive(10.0)
        idle += stream.intervals[8:]
        begun = len(stream.moments)
        long = driver.submit(prompts.next(LONG_PROMPT), Sampling(max_tokens=1, temperature=0.0))
        driver.collect([long])
        busy += stream.intervals[begun - 1 :]
        reading.append(long.first_token_s)
        driver.cancel(stream)
    return {
        "prompt_tokens": LONG_PROMPT,
        "idle_median_ms": median(idle) * 1e3,
        "busy_p50_ms": median(busy) * 1e3,
        "busy_p99_ms": percentile(busy, 0.99) * 1e3,
        "prompt_first_token_s": median(reading),
        "p99_over_idle_median": percentile(busy, 0.99) / median(idle),
    }


async def _measure_second_turn(
    driver: Driver, prompts: UniquePrompts, rounds: int
) -> dict[str, Any]:
    first: list[float] = []
    second: list[float] = []
    cached = 0
    for _ in range(rounds):
        await asyncio.sleep(REST_S)
        history = prompts.next(HISTORY)
        greedy = Sampling(max_tokens=16, temperature=0.0)
        opening = driver.submit(history, greedy)
        driver.collect([opening])
        await asyncio.sleep(REST_S)
        again = driver.submit([*history, *opening.tokens, *prompts.next(12)], greedy)
        driver.collect([again])
        first.append(opening.first_token_s)
        second.append(again.first_token_s)
        cached = again.cached
    return {
        "history_tokens": HISTORY,
        "cached_tokens": cached,
        "first_turn_s": median(first),
        "second_turn_s": median(second),
        "ratio": _ratio(second, first),
    }


# Emulated --------------------------------------------------------------------------------


async def measure_emulated(model: str, rounds: int) -> dict[str, Any]:
    """Measures eight emulated stages that hold each step for ten milliseconds."""
    prompts = UniquePrompts()
    lone: list[float] = []
    crowd: list[float] = []
    lone_rate: list[float] = []
    crowd_rate: list[float] = []
    async with running_cluster(model, EMULATED_STAGES, hold_ms=HOLD_MS) as options:
        with await connect(options) as driver:
            for _ in range(rounds):
                (one,) = await users(driver, prompts, 1, 100)
                lone += one.intervals[5:]
                lone_rate.append(throughput([one]))
                eight = await users(driver, prompts, 8, 200)
                crowd_rate.append(throughput(eight))
                crowd += [x for reply in eight for x in reply.intervals[20:-20]]
    whole = EMULATED_STAGES * HOLD_MS / 1e3
    emulated = {
        "stages": EMULATED_STAGES,
        "hold_ms": HOLD_MS,
        "lone_interval_ms": median(lone) * 1e3,
        "lone_interval_p99_ms": percentile(lone, 0.99) * 1e3,
        "hop_us": (median(lone) - whole) / EMULATED_STAGES * 1e6,
        "eight_users_over_one": _ratio(crowd_rate, lone_rate),
        "interval_of_eight_over_lone": median(crowd) / median(lone),
    }
    return {"emulated": emulated}


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of consecutive measurements."""
    return median([a / b for a, b in zip(ours, theirs, strict=True)])
