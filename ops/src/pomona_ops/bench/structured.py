"""Cost of a grammar: the same users with and without one, alternating."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from pomona.messages.sampling import Sampling
from pomona.models import read_facts
from pomona_gateway.grammar import JsonShape, body_grammar
from pomona_ops.bench.clusters import running_cluster
from pomona_ops.bench.concurrency import PROMPT, REST_S, UniquePrompts, connect, throughput
from pomona_ops.bench.driver import Reply
from pomona_ops.bench.numbers import median

USERS = 4
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 40,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 24},
                    "age": {"type": "integer", "minimum": 0, "maximum": 120},
                    "born": {"type": "string", "format": "date"},
                    "mood": {"enum": ["glad", "sad", "tired", None]},
                    "scores": {"type": "array", "items": {"type": "number"}, "maxItems": 3},
                },
                "required": ["name", "age", "born", "mood", "scores"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}
"""Its shortest value has more tokens than a reply, so that all replies are equally long."""


async def run_structured(model: str, stages: int, rounds: int, tokens: int) -> dict[str, Any]:
    """Compares tokens per second of four users with and without a JSON Schema."""
    free = Sampling(max_tokens=tokens)
    stop_ids = read_facts(model).eos_token_ids
    grammar = body_grammar(JsonShape(SCHEMA, "bench")).lark
    constrained = replace(free, stop_ids=stop_ids, grammar=grammar)
    rates: dict[str, list[float]] = {"free": [], "held": []}
    firsts: dict[str, list[float]] = {"free": [], "held": []}
    prompts = UniquePrompts()
    async with running_cluster(model, stages, one_core=True) as options:
        with await connect(options) as driver:
            # The first round is warm-up: the worker reads the vocabulary and tunes its budget.
            for number in range(rounds + 1):
                for kind, sampling in (("free", free), ("held", constrained)):
                    await asyncio.sleep(REST_S)
                    replies: list[Reply] = [
                        driver.submit(prompts.next(PROMPT), replace(sampling, seed=user))
                        for user in range(USERS)
                    ]
                    driver.collect(replies)
                    if number:
                        rates[kind].append(throughput(replies))
                        firsts[kind] += [reply.first_token_s for reply in replies]
    ratios = [a / b for a, b in zip(rates["held"], rates["free"], strict=True)]
    return {
        "structured": {
            "stages": stages,
            "users": USERS,
            "rounds": rounds,
            "tokens": tokens,
            "free_tokens_per_second": median(rates["free"]),
            "held_tokens_per_second": median(rates["held"]),
            "held_over_free": median(ratios),
            "lowest_round": min(ratios),
            "highest_round": max(ratios),
            "free_first_token_s": median(firsts["free"]),
            "held_first_token_s": median(firsts["held"]),
        }
    }
