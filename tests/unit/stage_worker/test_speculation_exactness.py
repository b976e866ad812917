"""With guesses, replies are those of plain decoding: every cache kind, any interleaving."""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from pomona.messages.cache_ops import Rollback
from pomona.messages.sampling import Sampling
from pomona_stage_worker.model.mlx_stage import MlxStage
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.slicing import legal_cuts, slice_model
from support.doubles.oracle_source import OracleSource
from support.doubles.pipeline import Client, InProcessPipeline
from support.models.random_llama import model as llama
from support.models.random_llama import vocabulary_pipeline, wide_model
from support.slicing.families import build, randomise

KINDS = {
    "llama": "full attention",
    "llama:4": "full attention, several guesses a step",
    "deepseek_v3": "latent keys",
    "deepseek_v32": "a cache with an indexer",
    "gemma3_text": "rotating windows beside full attention",
    "gemma4_text": "windows, and several arrays cross a cut",
    "gpt_oss": "sinks and windows",
    "jamba": "state space and attention",
    "kimi_linear": "linear attention",
    "lfm2": "convolutions",
    "llama4": "chunked caches, which cannot be batched",
    "mamba2": "state space only",
    "nemotron_h": "mixed layers, some without a cache",
    "qwen3_next": "gated delta rule",
    "rwkv7": "a recurrent state and two arrays across",
}
REPLY = 14
DIGITS = "start: /[0-9]{12}(, [0-9]{4}){1,4}/"
"""A grammar of llguidance."""
SAMPLINGS = [
    Sampling(max_tokens=REPLY, temperature=0.0),
    Sampling(max_tokens=REPLY, temperature=1.0, seed=5),
    Sampling(max_tokens=REPLY, temperature=0.8, top_p=0.9, top_k=12, seed=11, logprobs=2),
    Sampling(max_tokens=REPLY, temperature=0.0, repetition_penalty=1.3, frequency_penalty=0.4),
    Sampling(max_tokens=REPLY, temperature=1.0, seed=3, stop_ids=(3, 9, 17), min_tokens=3),
    Sampling(max_tokens=REPLY, temperature=1.0, seed=8, presence_penalty=1.0, min_p=0.02),
]


@cache
def model_of(kind: str) -> Any:
    if kind.startswith("llama") and kind != "llama4":
        return llama()
    model: Any = build(kind)
    randomise(model)
    return model


def pipeline_of(
    kind: str, bounds: tuple[int, ...], source: OracleSource | None, **limits: Any
) -> InProcessPipeline:
    width = int(kind.partition(":")[2] or 1)
    stages = [
        MlxStage(slice_model(model_of(kind), a, b), builds_beside=True, max_width=width)
        for a, b in pairwise(bounds)
    ]
    head = stages[0]
    assert head.can_roll_back
    allowed: dict[str, Any] = {
        "context_length": 500,
        "cache_tokens": 5000,
        "chunk": 8,
        "min_prefix": 4,
        "can_batch": head.can_batch,
        "can_slice": head.can_slice,
        "max_width": head.max_width,
        "speculation": source is not None,
        **limits,
    }
    sources = () if source is None else (source,)
    return InProcessPipeline(stages, SchedulerLimits(stages=len(stages), **allowed), sources)


def prompt_of(number: int) -> tuple[int, ...]:
    return tuple((7 * i + 3 * number * i + number) % 40 for i in range(5 + 3 * number))


@cache
def plain(kind: str, prompt: tuple[int, ...], sampling: Sampling) -> Client:
    """Returns the reply without guesses, from one stage."""
    pipeline = pipeline_of(kind, (0, len(model_of(kind).layers)), None)
    client = pipeline.submit("plain", prompt, sampling)
    pipeline.run()
    return client


def bounds_of(kind: str, random_: random.Random, fewest: int) -> tuple[int, ...]:
    model = model_of(kind)
    cuts = legal_cuts(model)
    most = min(3, len(cuts))
    chosen = sorted(random_.sample(cuts, random_.randint(min(fewest, most), most)))
    return (0, *chosen, len(model.layers))


def run_schedule(kind: str, seed: int, lone: bool = False) -> InProcessPipeline:
    """Runs a random schedule and compares every reply with the plain one.

    Args:
        lone: one request in many stages, so that much is guessed.
    """
    choice = random.Random(f"{kind}/{seed}")
    acceptance = 0.6 if lone else choice.choice([0.3, 0.6, 0.9])
    source = OracleSource(acceptance, seed, wrong=choice.randrange(40))
    tight = {"cache_tokens": 130} if choice.random() < 0.2 else {}
    pipeline = pipeline_of(kind, bounds_of(kind, choice, 3 if lone else 1), source, **tight)
    wanted: dict[str, Client] = {}
    cancelled: set[str] = set()

    def submit() -> None:
        sampling = choice.choice(SAMPLINGS)
        prompt = prompt_of(choice.randrange(5))
        reply = plain(kind, prompt, sampling)
        request = f"r{len(wanted)}"
        if choice.random() < 0.25 and reply.tokens:
            prompt = (*prompt, *reply.tokens)  # a second turn, which finds its prefix
            reply = plain(kind, prompt, sampling)
        wanted[request] = reply
        pipeline.submit(request, prompt, sampling, prediction=reply.tokens)

    for _ in range(1 if lone else choice.choice([1, 1, 1, 2, 4])):
        submit()
    for _ in range(choice.randint(20, 200)):
        event = choice.random()
        if event < 0.02 and not lone:
            submit()
        elif event < 0.03 and not lone:
            request = f"r{choice.randrange(len(wanted))}"
            cancelled.add(request)
            pipeline.cancel(request)
        else:
            choice.choice(pipeline.moves())()
            pipeline.now += 0.0001
    pipeline.run()
    for request, reply in wanted.items():
        got = pipeline.clients[request]
        context = f"{kind}, schedule {seed}, {request}"
        assert got.tokens == reply.tokens[: len(got.tokens)], context
        if request not in cancelled:
            assert got.finish == reply.finish, context
            assert [t for t, _ in got.chances] == pytest.approx(  # type: ignore[reportUnknownMemberType]
                [t for t, _ in reply.chances], abs=1e-4
            )
            ids = [[token for token, _ in top] for _, top in got.chances]
            assert ids == [[token for token, _ in top] for _, top in reply.chances], context
    tables = pipeline.tables()
    assert all(table == tables[0] for table in tables), f"{kind}, schedule {seed}"
    assert tables[0]["sequences"] == tables[0]["lanes"] == {}  # type: ignore[index]
    return pipeline


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_replies_are_those_of_plain_decoding(kind: str) -> None:
    accepted = rollbacks = 0
    for seed in range(20):
        pipeline = run_schedule(kind, seed, lone=True)
        accepted += pipeline.scheduler.speculator.counts.accepted
        rollbacks += sum(type(op) is Rollback for step in pipeline.steps for op in step.ops)
        if accepted >= 5 and rollbacks >= 3:
            return
    raise AssertionError(f"{accepted} right guesses, {rollbacks} rollbacks: too few to tell")


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_resumed_request_goes_on_as_in_plain_decoding(sampling: Sampling) -> None:
    prompt = prompt_of(3)
    reply = plain("llama", prompt, sampling).tokens
    first = pipeline_of("llama", (0, 2, 3, 5), OracleSource(0.7, wrong=1))
    before = first.submit("a", prompt, sampling, prediction=reply)
    while not before.tokens:
        first.run_rounds(1)
    first.run_rounds(4)
    emitted = list(before.tokens)
    second = pipeline_of("llama", (0, 1, 4, 5), OracleSource(0.7, wrong=2))
    second.clients["a"] = before
    again = second.submit(
        "a", (*prompt, *emitted), sampling, prediction=reply, emitted=len(emitted)
    )
    again.tokens = emitted
    second.run()
    assert again.tokens == reply
    assert len(emitted) > 0


def test_quantised_caches_are_rolled_back() -> None:
    wide = wide_model()
    prompt = prompt_of(4)
    sampling = Sampling(max_tokens=40, temperature=0.0)

    def run(source: OracleSource | None, reply: list[int]) -> InProcessPipeline:
        stages = [
            MlxStage(slice_model(wide, a, b), cache_bits=8) for a, b in pairwise((0, 1, 2, 3))
        ]
        limits = SchedulerLimits(
            stages=3, context_length=500, cache_tokens=5000, can_batch=False, speculation=True
        )
        pipeline = InProcessPipeline(stages, limits, () if source is None else (source,))
        pipeline.submit("a", prompt, sampling, prediction=reply)
        pipeline.run()
        return pipeline

    expected = run(None, []).clients["a"].tokens
    guessed = run(OracleSource(0.7, wrong=5), expected)
    assert guessed.clients["a"].tokens == expected
    assert guessed.scheduler.speculator.counts.rejected


@pytest.mark.slow
def test_a_reply_with_a_grammar_is_that_of_plain_decoding() -> None:
    sampling = Sampling(max_tokens=40, temperature=1.0, seed=3, stop_ids=(0,), grammar=DIGITS)

    def run(source: OracleSource | None, reply: list[int]) -> InProcessPipeline:
        pipeline = vocabulary_pipeline(
            speculation=True, sources=() if source is None else (source,)
        )
        pipeline.submit("a", range(5, 20), sampling, prediction=reply)
        choice = random.Random(1)
        while pipeline.clients["a"].finish is None:
            choice.choice(pipeline.moves())()
        pipeline.run()
        return pipeline

    expected = run(None, []).clients["a"]
    guessed = run(OracleSource(0.7, wrong=5), expected.tokens)
    assert guessed.clients["a"].tokens == expected.tokens
    assert guessed.clients["a"].finish == expected.finish
    assert guessed.scheduler.speculator.counts.accepted
    assert guessed.scheduler.speculator.counts.rejected


@pytest.mark.soak
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_many_random_schedules_change_no_reply(kind: str) -> None:
    for seed in range(100, 120):
        run_schedule(kind, seed)
