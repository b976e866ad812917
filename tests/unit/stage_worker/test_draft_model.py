"""A small model guesses beside the steps, and replies are those of plain decoding."""

from __future__ import annotations

import random
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map

from pomona.messages.sampling import Sampling
from pomona_stage_worker.drafting.continuation import Continuation
from pomona_stage_worker.drafting.draft_model import DraftModelDrafter, DraftModelSource
from pomona_stage_worker.model.mlx_stage import MlxStage
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.slicing import StageModel, slice_model
from support.doubles.pipeline import InProcessPipeline, greedy
from support.models.random_llama import VOCABULARY, prompts
from support.models.random_llama import model as llama
from support.slicing.families import build, randomise
from support.waiting import wait_until

BOUNDS = (0, 1, 3, 5)
GREEDY = Sampling(max_tokens=16, temperature=0.0)
SAMPLED = Sampling(max_tokens=16, temperature=0.9, seed=4, top_p=0.95, logprobs=1)
PENALISED = Sampling(max_tokens=16, temperature=1.0, seed=9, presence_penalty=0.8)


def other_llama(noise: float) -> StageModel:
    """Returns a model with the weights of the large one, changed by a little noise."""
    key = mx.random.key(21)
    built = type(llama())(llama().args)

    def change(array: mx.array) -> mx.array:
        return array + noise * mx.random.normal(array.shape, key=key)

    built.update(tree_map(change, llama().parameters()))
    mx.eval(built.parameters())
    built.eval()
    return slice_model(built, 0, 5)


def same_model() -> StageModel:
    return other_llama(0.0)


def similar_model() -> StageModel:
    """Returns a model that often agrees with the large one."""
    return other_llama(0.01)


def at_rest(source: DraftModelSource) -> None:
    wait_until(lambda: source.is_at_rest, "all guesses are made", 60.0)


class RecordingSource(DraftModelSource):
    """Keeps the drafters that it made."""

    made: list[DraftModelDrafter]

    def start(self) -> None:
        self.made = []
        super().start()

    def drafter(
        self, seq: int, tenant: str, prompt: int, prediction: Sequence[int]
    ) -> DraftModelDrafter:
        self.made.append(super().drafter(seq, tenant, prompt, prediction))
        return self.made[-1]


@contextmanager
def running(
    make: Any = similar_model, context: int = 1000, vocabulary: int = VOCABULARY
) -> Generator[RecordingSource]:
    source = RecordingSource(make, vocabulary, context, ahead=3, wake=lambda: None)
    source.start()
    try:
        yield source
    finally:
        source.close()
    assert not any(thread.name == "drafts" for thread in threading.enumerate())


def pipeline_with(source: DraftModelSource | None) -> InProcessPipeline:
    stages = [MlxStage(slice_model(llama(), a, b)) for a, b in pairwise(BOUNDS)]
    limits = SchedulerLimits(
        stages=3, context_length=4096, cache_tokens=20_000, min_prefix=4, speculation=True
    )
    pipeline = InProcessPipeline(stages, limits, () if source is None else (source,))
    pipeline.stage_us = 10_000_000  # A draft model of the same size is then cheap.
    return pipeline


def run(pipeline: InProcessPipeline, source: DraftModelSource, seed: int) -> None:
    """Runs random events; the draft model comes first or late."""
    choice = random.Random(seed)
    while any(client.finish is None for client in pipeline.clients.values()):
        if choice.random() < 0.1:
            at_rest(source)
        choice.choice(pipeline.moves())()
        pipeline.now += 0.001
    pipeline.run()


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, PENALISED])
def test_replies_are_those_of_plain_decoding(sampling: Sampling) -> None:
    texts = prompts(2)
    plain = pipeline_with(None)
    for number, prompt in enumerate(texts):
        plain.submit(f"r{number}", prompt, sampling)
        plain.run()
    with running() as source:
        for number, prompt in enumerate(texts):
            guessed = pipeline_with(source)
            guessed.submit(f"r{number}", prompt, sampling)
            run(guessed, source, number)
            expected, reply = plain.clients[f"r{number}"], guessed.clients[f"r{number}"]
            assert reply.tokens == expected.tokens
            assert reply.finish == expected.finish
            counts = guessed.scheduler.speculator.counts
            assert counts.drafted == counts.accepted + counts.rejected
            tables = guessed.tables()
            assert all(table == tables[0] for table in tables)
        assert not source.failure


def test_a_model_that_agrees_with_the_large_one_fills_the_pipeline() -> None:
    with running(same_model) as source:
        pipeline = pipeline_with(source)
        client = pipeline.submit("a", prompts(1)[0], greedy(30))
        deepest = 0
        while client.finish is None:
            at_rest(source)
            pipeline.run_rounds(1)
            deepest = max(deepest, pipeline.scheduler.in_flight)
        pipeline.run()
        status = pipeline.scheduler.speculator.status()
        assert client.wrong_guesses == 0
        assert client.right_guesses > 20
        assert deepest == 3
        assert status.sources == {"draft model": client.right_guesses}
        assert source.guess_us > 0


@pytest.mark.slow
def test_a_model_that_takes_as_long_as_a_round_rests() -> None:
    with running(same_model) as source:
        pipeline = pipeline_with(source)
        pipeline.stage_us = 1
        client = pipeline.submit("a", prompts(1)[0], greedy(80))
        while client.finish is None:
            at_rest(source)
            pipeline.run_rounds(1)
        pipeline.run()
        (drafter,) = source.made
        assert pipeline.scheduler.speculator.counts.drafted == 0
        assert 0 < drafter.offers < 40


@pytest.mark.slow
def test_two_users_and_a_cancelled_one_are_drafted_at_once() -> None:
    texts = prompts(3)
    plain = pipeline_with(None)
    for number in range(2):
        plain.submit(f"r{number}", texts[number], GREEDY)
    plain.run()
    with running() as source:
        pipeline = pipeline_with(source)
        for number, prompt in enumerate(texts):
            pipeline.submit(f"r{number}", prompt, GREEDY)
        pipeline.run_rounds(6)
        pipeline.cancel("r2")
        pipeline.clients.pop("r2")
        run(pipeline, source, 5)
        for number in range(2):
            assert pipeline.clients[f"r{number}"].tokens == plain.clients[f"r{number}"].tokens
        assert source.is_at_rest


def test_a_guess_wakes_the_steps_when_it_was_lacking() -> None:
    woken = threading.Event()
    source = DraftModelSource(same_model, VOCABULARY, 1000, ahead=1, wake=woken.set)
    source.start()
    try:
        drafter = source.drafter(1, "", 3, ())
        assert drafter.propose([1, 2, 3], [], 1) == []
        assert woken.wait(30.0)
        offers = drafter.offers
        assert offers >= 1
        at_rest(source)
        assert len(drafter.propose([1, 2, 3], [], 2)) == 2
    finally:
        source.close()


def test_guesses_follow_the_text_after_a_wrong_one() -> None:
    """The caches are cut to what the new text shares with the old one."""
    with running(same_model) as source:
        drafter = source.drafter(1, "", 3, ())
        for text, guesses in (([1, 2, 3], []), ([1, 2, 3, 9], [4]), ([1, 2, 3, 9, 8, 7], [])):
            drafter.propose(text, guesses, 3)
            at_rest(source)
            found = [guess.token for guess in drafter.propose(text, guesses, 3)]
            assert found == continued([*text, *guesses], 3)
            drafter.missed()


def test_a_long_text_is_read_from_a_place_that_rarely_moves() -> None:
    with running(same_model, context=16) as source:
        drafter = source.drafter(1, "", 40, ())
        text = list(range(40))
        drafter.propose(text, [], 2)
        at_rest(source)
        found = [guess.token for guess in drafter.propose(text, [], 2)]
        assert found == continued(text[16:], 2)
        drafter.close()


def test_ids_that_the_large_model_lacks_are_not_guessed() -> None:
    with running(same_model, vocabulary=1) as source:
        drafter = source.drafter(1, "", 3, ())
        drafter.propose([1, 2, 3], [], 3)
        at_rest(source)
        assert drafter.propose([1, 2, 3], [], 3) == []


def test_a_model_that_cannot_be_cut_is_refused_with_the_reason() -> None:
    def state_space() -> StageModel:
        built: Any = build("mamba2")
        randomise(built)
        return slice_model(built, 0, len(built.layers))

    with running(state_space) as source:
        wait_until(lambda: source.failure, "the draft model fails", 60.0)
        pipeline = pipeline_with(source)
        client = pipeline.submit("a", prompts(1)[0], greedy(8))
        pipeline.run()
        assert client.finish is not None
        assert "cannot be cut" in pipeline.scheduler.speculator.status().unused["draft model"]


def test_a_model_that_breaks_ends_its_guesses_only() -> None:
    def broken() -> StageModel:
        raise RuntimeError("no such file")

    with running(broken) as source:
        wait_until(lambda: source.failure, "the draft model fails", 60.0)
        assert "no such file" in source.failure
        assert source.drafter(1, "", 1, ()).propose([1], [], 3) == []


def continued(text: list[int], count: int) -> list[int]:
    """Returns the greedy continuation of a text, computed without cached tokens."""
    tokens = list(text)
    for _ in range(count):
        fresh = Continuation(same_model())
        fresh.follow(tokens)
        token = fresh.advance()
        assert token is not None
        tokens.append(token)
    return tokens[len(text) :]
