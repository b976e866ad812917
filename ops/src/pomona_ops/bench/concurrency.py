"""The engine under several users: real stages, and emulated ones where only the bus counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pomona.messages.sampling import Sampling
from pomona_ops.bench.clusters import Yardstick, running_cluster, running_yardstick
from pomona_ops.bench.driver import Driver, Reply, active_pipeline
from pomona_ops.bench.numbers import median, percentile, total_rate
from pomona_ops.bench.prompts import made_up_prompt
from pomona_ops.cluster.ports import LOOPBACK
from pomona_ops.cluster.processes import ClusterOptions

REST_S = 0.5
PROMPT = 32
FEW_TOKENS = 128
PAIRS = 5
"""Of one user and two, a turn; one user is measured before and after. Their ratio is near its
target, and a shared machine slows down for seconds at a time: the median of few pairs says more of
its other guests."""
MANY_TOKENS = 160
"""Prompts are read one after the other: the first of eight replies must outlast that."""
LONG_PROMPT = 2000
HISTORY = 1500
EMULATED_STAGES = 8
HOLD_MS = 10.0


async def connect(options: ClusterOptions) -> Driver:
    """A driver for the cluster's pipeline."""
    endpoint = f"tcp://{LOOPBACK}:{options.ports.control_subscribe}"
    return Driver(await active_pipeline(endpoint, options.cluster, 10.0), options.cluster)


async def run_engine(model: str, rounds: int) -> dict[str, Any]:
    """Everything, real and emulated, in one run."""
    return await measure_emulated(model, rounds) | await measure_real(model, rounds)


class Salts:
    """Prompts that were never used before, so that no cache knows them."""

    def __init__(self) -> None:
        self._next = 0

    def prompt(self, length: int) -> list[int]:
        self._next += 1
        return made_up_prompt(length, self._next)


async def users(
    driver: Driver, salts: Salts, count: int, tokens: int, length: int = PROMPT
) -> list[Reply]:
    """``count`` users at once, after a moment of rest."""
    await asyncio.sleep(REST_S)
    greedy = Sampling(max_tokens=tokens, temperature=0.0)
    replies = [driver.submit(salts.prompt(length), greedy) for _ in range(count)]
    driver.collect(replies)
    return replies


def together(replies: Sequence[Reply]) -> float:
    """Tokens a second of all, while all run."""
    return total_rate([reply.moments for reply in replies])


# Real ------------------------------------------------------------------------------------


async def measure_real(model: str, rounds: int) -> dict[str, Any]:
    """Two stages, one BLAS thread each, a core each, beside mlx-lm on the same cores."""
    salts = Salts()
    async with running_cluster(model, 2, one_core=True) as options:
        with await connect(options) as driver:
            async with running_yardstick(model, threads=2) as two_threads:
                crowd = await _measure_users(driver, two_threads, salts, rounds)
            async with running_yardstick(model, threads=1) as one_thread:
                first = await _measure_first_token(driver, one_thread, salts, rounds)
            return {
                "users": crowd,
                "first_token": first,
                "interference": await _measure_interference(driver, salts, rounds),
                "second_turn": await _measure_second_turn(driver, salts, rounds),
            }


async def _measure_users(
    driver: Driver, yardstick: Yardstick, salts: Salts, rounds: int
) -> dict[str, Any]:
    one: list[float] = []
    two: list[float] = []
    eight: list[float] = []
    theirs: list[float] = []
    for turn in range(1 + rounds):
        before = together(await users(driver, salts, 1, FEW_TOKENS))
        for _ in range(PAIRS if turn else 1):
            two.append(together(await users(driver, salts, 2, FEW_TOKENS)))
            after = together(await users(driver, salts, 1, FEW_TOKENS))
            one.append((before + after) / 2)
            before = after
        await asyncio.sleep(REST_S)
        answer = await yardstick.run([salts.prompt(PROMPT) for _ in range(8)], MANY_TOKENS)
        steps = answer["seconds"]
        theirs.append(8 * (len(steps) - 1) / (steps[-1] - steps[0]))
        eight.append(together(await users(driver, salts, 8, MANY_TOKENS)))
    # The first turn, in which MLX compiles and the scheduler tries lanes, does not count.
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
    driver: Driver, yardstick: Yardstick, salts: Salts, rounds: int
) -> dict[str, Any]:
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        await asyncio.sleep(REST_S)
        answer = await yardstick.run([salts.prompt(LONG_PROMPT)], 2)
        theirs.append(answer["first_token_s"])
        (reply,) = await users(driver, salts, 1, 2, LONG_PROMPT)
        ours.append(reply.first_token_s)
    return {
        "prompt_tokens": LONG_PROMPT,
        "two_stages_s": median(ours),
        "mlx_lm_one_process_one_thread_s": median(theirs),
        "ratio": _ratio(ours, theirs),
    }


async def _measure_interference(driver: Driver, salts: Salts, rounds: int) -> dict[str, Any]:
    """A running stream before and while a long prompt is read."""
    idle: list[float] = []
    busy: list[float] = []
    reading: list[float] = []
    for _ in range(rounds):
        await asyncio.sleep(REST_S)
        stream = driver.submit(salts.prompt(PROMPT), Sampling(max_tokens=4000, temperature=0.0))
        while len(stream.tokens) < 40:
            driver.receive(10.0)
        idle += stream.intervals[8:]
        begun = len(stream.moments)
        long = driver.submit(salts.prompt(LONG_PROMPT), Sampling(max_tokens=1, temperature=0.0))
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


async def _measure_second_turn(driver: Driver, salts: Salts, rounds: int) -> dict[str, Any]:
    first: list[float] = []
    second: list[float] = []
    cached = 0
    for _ in range(rounds):
        await asyncio.sleep(REST_S)
        history = salts.prompt(HISTORY)
        greedy = Sampling(max_tokens=16, temperature=0.0)
        opening = driver.submit(history, greedy)
        driver.collect([opening])
        await asyncio.sleep(REST_S)
        again = driver.submit([*history, *opening.tokens, *salts.prompt(12)], greedy)
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
    """Eight stages that hold each step for ten milliseconds. They stand for machines of their own,
    so on Linux neighbours are kept on different cores, as ``running_cluster`` pins all."""
    salts = Salts()
    lone: list[float] = []
    crowd: list[float] = []
    lone_rate: list[float] = []
    crowd_rate: list[float] = []
    async with running_cluster(model, EMULATED_STAGES, hold_ms=HOLD_MS) as options:
        with await connect(options) as driver:
            for _ in range(rounds):
                (one,) = await users(driver, salts, 1, 100)
                lone += one.intervals[5:]
                lone_rate.append(together([one]))
                eight = await users(driver, salts, 8, 200)
                crowd_rate.append(together(eight))
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
    """Median of the ratios of neighbouring turns."""
    return median([a / b for a, b in zip(ours, theirs, strict=True)])
