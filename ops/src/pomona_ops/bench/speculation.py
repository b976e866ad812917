"""Guessed tokens in idle stages against plain decoding: pairs of measurements in one pipeline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from pomona.messages.sampling import Sampling
from pomona.models import read_facts
from pomona.models.formats.vocabulary import read_vocabulary
from pomona_ops.bench.clusters import running_cluster
from pomona_ops.bench.concurrency import UniquePrompts, connect, throughput
from pomona_ops.bench.driver import Driver, Reply
from pomona_ops.bench.numbers import median
from pomona_ops.bench.prompts import HARBOUR, chat_text

REST_S = 0.3
PROMPT_TOKENS = 32
HOLD_MS = 10.0
DRAFT_STAGES, DRAFT_HOLD_MS, DRAFT_TOKENS = 4, 200.0, 48
DRAFT_LOAD_S = 10.0
"""Time for the draft model to be read, which happens beside the first requests."""


@dataclass(frozen=True, slots=True)
class EmulatedRow:
    """One measurement over emulated stages that hold each step for ``HOLD_MS``.

    Attributes:
        acceptance: share of guesses that are right, forced.
        width: tokens of a step that take as long as one.
        target: least ratio of tokens per second over plain decoding.
    """

    name: str
    stages: int
    acceptance: float
    users: int
    width: int
    target: float
    tokens: int = 400

    @property
    def environment(self) -> dict[str, str]:
        return {
            "POMONA_STAGE_WORKER_ACCEPTANCE": str(self.acceptance),
            "POMONA_STAGE_WORKER_MAX_WIDTH": str(self.width),
        }


EMULATED_ROWS = (
    EmulatedRow("4 stages, acceptance 0.7", 4, 0.7, users=1, width=1, target=1.9),
    EmulatedRow("8 stages, acceptance 0.8", 8, 0.8, users=1, width=1, target=3.0),
    EmulatedRow("4 stages, acceptance 0", 4, 0.0, users=1, width=1, target=0.97),
    EmulatedRow("4 stages, 4 users, acceptance 0.7", 4, 0.7, users=4, width=1, target=1.0),
    EmulatedRow("4 stages, dense, acceptance 0.8", 4, 0.8, users=1, width=4, target=3.0),
)


@dataclass(frozen=True, slots=True)
class RealRow:
    """One measurement of the real model.

    Attributes:
        prompt: text in the chat form of the embedded model.
        target: least ratio of tokens per second over plain decoding, in two stages.
        lone_target: the same in one stage, where a step has several tokens.
    """

    name: str
    prompt: str
    sampling: Sampling
    target: float
    lone_target: float


REAL_ROWS = (
    RealRow(
        "a text of 270 tokens is repeated with one word changed",
        chat_text(
            "Repeat the following text word for word, with the word Tuesday replaced by Friday."
            f"\n\n{HARBOUR}"
        ),
        Sampling(max_tokens=250, temperature=0.0),
        1.6,
        1.0,
    ),
    RealRow(
        "prose without repetition",
        chat_text("Write a short story about a violin maker who loses her hearing."),
        Sampling(max_tokens=200, temperature=1.0, seed=7),
        0.97,
        0.97,
    ),
)


async def run_speculation(model: str, rounds: int, part: str) -> dict[str, Any]:
    """Runs the rows of one part, or of all."""
    results: dict[str, Any] = {}
    if part in ("all", "emulated"):
        for row in EMULATED_ROWS:
            results[f"emulated: {row.name}"] = await _measure_emulated(model, row, rounds)
    if part in ("all", "real"):
        for stages in (2, 1):
            results |= await _measure_real(model, rounds, stages)
    if part in ("all", "draft"):
        results |= await _measure_draft(model, rounds)
    return results


async def _measure_draft(model: str, rounds: int) -> dict[str, Any]:
    """Measures stages that wait as those of a larger model, whose tokens the model itself guesses:
    the likeliest token, while the reply is sampled.

    ``formula`` is what the guesses that were right are worth if each saves all stages but one.
    """
    prompt = read_vocabulary(read_facts(model).path).encode(REAL_ROWS[-1].prompt).ids
    plain: list[list[Reply]] = []
    guessed: list[list[Reply]] = []
    async with running_cluster(
        model, DRAFT_STAGES, DRAFT_HOLD_MS, one_core=True, computes=True, draft_model=model
    ) as options:
        with await connect(options) as driver:
            await asyncio.sleep(DRAFT_LOAD_S)
            for number in range(rounds):
                sampling = Sampling(max_tokens=DRAFT_TOKENS, temperature=1.0, seed=number)
                for side, speculative in ((plain, False), (guessed, True)):
                    await asyncio.sleep(REST_S)
                    tenant = f"{number}/{speculative}"
                    reply = driver.submit(prompt, sampling, tenant, speculative)
                    driver.collect([reply])
                    side.append([reply])
    measured = _compare(plain, guessed, 1.0)
    worth = 1 - 1 / DRAFT_STAGES
    formula = median(
        [len(x.intervals) / (len(x.intervals) - x.accepted * worth) for (x,) in guessed]
    )
    measured["acceptance"] = median([x.accepted / len(x.intervals) for (x,) in guessed])
    measured |= {"formula": formula, "of the formula": measured["ratio"] / formula}
    measured["same_tokens"] = all(
        a[0].tokens == b[0].tokens for a, b in zip(plain, guessed, strict=True)
    )
    return {f"a draft model, {DRAFT_STAGES} stages of {DRAFT_HOLD_MS:g} ms": measured}


async def _measure_real(model: str, rounds: int, stages: int) -> dict[str, Any]:
    """Measures stages of one core each: a text that is repeated, and one that is not."""
    place = "one stage" if stages == 1 else f"{stages} stages"
    vocabulary = read_vocabulary(read_facts(model).path)
    results: dict[str, Any] = {}
    async with running_cluster(model, stages, one_core=True) as options:
        with await connect(options) as driver:
            for row in REAL_ROWS:
                prompt = vocabulary.encode(row.prompt).ids
                plain: list[list[Reply]] = []
                guessed: list[list[Reply]] = []
                for number in range(rounds):
                    for side, speculative in ((plain, False), (guessed, True)):
                        await asyncio.sleep(REST_S)
                        # A tenant of its own: the reply of the round before is no source.
                        tenant = f"{number}/{speculative}"
                        reply = driver.submit(prompt, row.sampling, tenant, speculative)
                        driver.collect([reply])
                        side.append([reply])
                measured = _compare(plain, guessed, row.lone_target if stages == 1 else row.target)
                measured["same_tokens"] = all(
                    a[0].tokens == b[0].tokens for a, b in zip(plain, guessed, strict=True)
                )
                results[f"real, {place}: {row.name}"] = measured
    return results


async def _measure_emulated(model: str, row: EmulatedRow, rounds: int) -> dict[str, Any]:
    plain: list[list[Reply]] = []
    guessed: list[list[Reply]] = []
    prompts = UniquePrompts()
    async with running_cluster(model, row.stages, HOLD_MS, row.environment) as options:
        with await connect(options) as driver:
            await _users(driver, prompts, row, False)
            for _ in range(rounds):
                plain.append(await _users(driver, prompts, row, False))
                guessed.append(await _users(driver, prompts, row, True))
    return _compare(plain, guessed, row.target)


async def _users(
    driver: Driver, prompts: UniquePrompts, row: EmulatedRow, speculative: bool
) -> list[Reply]:
    await asyncio.sleep(REST_S)
    sampling = Sampling(max_tokens=row.tokens, temperature=0.0)
    replies = [
        driver.submit(prompts.next(PROMPT_TOKENS), sampling, speculative=speculative)
        for _ in range(row.users)
    ]
    driver.collect(replies)
    return replies


def _compare(plain: list[list[Reply]], guessed: list[list[Reply]], target: float) -> dict[str, Any]:
    """Returns medians of both sides and of the ratios of consecutive measurements."""
    accepted = sum(reply.accepted for replies in guessed for reply in replies)
    rejected = sum(reply.rejected for replies in guessed for reply in replies)
    ratios = [throughput(b) / throughput(a) for a, b in zip(plain, guessed, strict=True)]
    result: dict[str, Any] = {
        "plain_tokens_per_second": median([throughput(replies) for replies in plain]),
        "tokens_per_second": median([throughput(replies) for replies in guessed]),
        "ratio": median(ratios),
        "target": target,
        "accepted": accepted,
        "rejected": rejected,
    }
    if len(plain[0]) > 1:
        before, after = (
            median([x for replies in side for reply in replies for x in reply.intervals[5:]])
            for side in (plain, guessed)
        )
        result["interval_ratio"] = after / before
    return result
