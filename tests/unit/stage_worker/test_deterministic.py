"""In deterministic mode a reply is computed in the same steps whatever runs beside it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import pytest

from pomona.messages.cache_ops import Fork, Open
from pomona.messages.sampling import Sampling
from pomona_stage_worker.model.mlx_stage import MlxStage
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.slicing import slice_model
from support.doubles.pipeline import Client, InProcessPipeline
from support.models.random_llama import CUTS, model

BLOCK = 8
REPLY = 20
SAMPLING = Sampling(max_tokens=REPLY, temperature=0.0, logprobs=3)
CUT = CUTS[-1]


class RecordingPipeline(InProcessPipeline):
    """Notes the shape of every step of every request: its first position and its tokens."""

    def shapes(self, request: str) -> list[tuple[int, int]]:
        """Returns (position, tokens) of each step that computed tokens of a request."""
        numbers: dict[int, str] = {}
        computed: dict[int, int] = defaultdict(int)
        found: list[tuple[int, int]] = []
        for step, lengths in zip(self.steps, self._lengths, strict=True):
            for op in step.ops:
                if isinstance(op, Open):
                    numbers[op.seq] = op.request
                elif isinstance(op, Fork):
                    computed[op.seq] = op.length
            assert len(step.rows) <= 1
            for row in step.rows:
                if numbers[row] == request:
                    found.append((computed[row], lengths))
                computed[row] += lengths
        return found

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # passed on
        self._lengths: list[int] = []

    def _run(self, index: int, step: object, step_input: object) -> None:
        if index == 0:
            tensors = step_input[0]  # type: ignore[index]
            self._lengths.append(tensors[0].shape[1] if tensors else 0)
        super()._run(index, step, step_input)  # type: ignore[arg-type]


def pipeline(cache_tokens: int = 5000, *, speculation: bool = False) -> RecordingPipeline:
    stages = [MlxStage(slice_model(model(), a, b)) for a, b in pairwise(CUT)]
    return RecordingPipeline(
        stages,
        SchedulerLimits(
            stages=len(stages),
            context_length=500,
            cache_tokens=cache_tokens,
            chunk=BLOCK,
            min_prefix=4,
            can_batch=False,
            speculation=speculation,
            deterministic=True,
        ),
    )


def prompt_of(number: int) -> list[int]:
    return [(7 * i + 3 * number * i + number) % 40 for i in range(21 + 6 * number)]


def alone(prompt: Sequence[int]) -> tuple[Client, list[tuple[int, int]]]:
    line = pipeline()
    client = line.submit("r", prompt, SAMPLING)
    line.run()
    return client, line.shapes("r")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_reply_is_the_same_to_the_bit_beside_any_others(seed: int) -> None:
    choice = random.Random(seed)
    line = pipeline(speculation=seed % 2 == 0)
    clients: list[Client] = []
    for _ in range(300):
        if len(clients) < 8 and choice.random() < 0.1:
            clients.append(line.submit(f"r{len(clients)}", prompt_of(len(clients) % 4), SAMPLING))
        choice.choice(line.moves())()
    line.run()
    assert len(clients) > 4
    for number, client in enumerate(clients):
        wanted, _ = alone(prompt_of(number % 4))
        assert client.tokens == wanted.tokens
        assert client.chances == wanted.chances


@pytest.mark.slow
def test_a_reply_that_goes_on_repeats_the_steps_of_the_first_attempt() -> None:
    prompt = prompt_of(2)
    wanted, shapes = alone(prompt)
    for emitted in (1, 5, REPLY - 1):
        line = pipeline()
        client = line.submit("r", [*prompt, *wanted.tokens[:emitted]], SAMPLING, emitted=emitted)
        client.tokens += wanted.tokens[:emitted]
        client.chances += wanted.chances[:emitted]
        line.run()
        assert line.shapes("r") == shapes
        assert (client.tokens, client.chances) == (wanted.tokens, wanted.chances)


def test_only_whole_chunks_of_an_earlier_prompt_are_reused() -> None:
    line = pipeline()
    first = line.submit("a", prompt_of(1), SAMPLING)
    line.run()
    again = line.submit("b", prompt_of(1), SAMPLING)
    line.run()
    turn = [*prompt_of(1), *first.tokens, 1, 2, 3]
    second = line.submit("c", turn, SAMPLING)
    line.run()
    whole = len(prompt_of(1)) // BLOCK * BLOCK
    assert (again.cached, second.cached) == (whole, whole)
    assert again.chances == first.chances
    assert second.chances == alone(turn)[0].chances


@pytest.mark.slow
def test_a_preempted_reply_is_the_same_to_the_bit() -> None:
    line = pipeline(cache_tokens=110)
    clients = [line.submit(f"r{n}", prompt_of(n), SAMPLING) for n in range(3)]
    line.run()
    assert line.scheduler.preemptions
    for number, client in enumerate(clients):
        assert client.chances == alone(prompt_of(number))[0].chances
