"""A pipeline in one thread: real stages and scheduler, with queues for links.

The test chooses which stage takes its next message, so it can try every interleaving of real
processes. Each link is first-in first-out, like ZeroMQ's.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pomona.messages.codec import Buffer
from pomona.messages.pipeline import (
    Embedded,
    Queued,
    Rejected,
    Scored,
    Started,
    Step,
    Submit,
    Tensor,
    Token,
)
from pomona.messages.sampling import Sampling
from pomona_stage_worker.model.mlx_stage import Stage
from pomona_stage_worker.sampling.sampled_tensors import SampledToken
from pomona_stage_worker.scheduler import Instruction, RunStep, Scheduler, SchedulerLimits
from pomona_stage_worker.speculation.draft import DraftSource
from pomona_stage_worker.testing.emulated import EmulatedStage, ForcedSource

StepInput: TypeAlias = tuple[tuple[Tensor, ...], tuple[Buffer, ...]]
"""Tensors and buffers of a step: token ids, then activations of the stage before."""


@dataclass
class Client:
    """The state that a gateway has of one request."""

    request: str
    tokens: list[int] = field(default_factory=list[int])
    finish: str | None = None
    rejected: Rejected | None = None
    cached: int = 0
    positions: list[int] = field(default_factory=list[int])
    first_score: int = 0
    scores: list[float] = field(default_factory=list[float])
    most_likely: list[list[int]] = field(default_factory=list[list[int]])
    embeddings: list[list[float]] = field(default_factory=list[list[float]])
    chances: list[tuple[float | None, tuple[tuple[int, float], ...]]] = field(
        default_factory=list[tuple[float | None, tuple[tuple[int, float], ...]]]
    )
    right_guesses: int = 0
    wrong_guesses: int = 0


class InProcessPipeline:
    """Runs steps only when the test says so.

    Attributes:
        now: time for the scheduler, seconds; moved by the test only.
        steps: all steps that were issued.
        stage_us: compute time of each stage that the head is told, microseconds.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        limits: SchedulerLimits,
        sources: tuple[DraftSource, ...] | None = None,
    ) -> None:
        self.stages = list(stages)
        self.scheduler = Scheduler(limits, sources)
        self.clients: dict[str, Client] = {}
        self.now = 0.0
        self.stage_us = 1000
        self.steps: list[Step] = []
        self._inboxes: list[deque[tuple[Step, StepInput]]] = [deque() for _ in stages]
        self._done: deque[tuple[int, list[SampledToken]]] = deque()

    # For tests --------------------------------------------------------------------------

    def submit(
        self, request: str, prompt: Sequence[int], sampling: Sampling, tenant: str = "",
        deadline_s: float = 60.0, priority: int = 0, queue_share: float = 1.0, scored: int = 0,
        prediction: Sequence[int] = (), speculative: bool = True, emitted: int = 0,
    ) -> Client:  # fmt: skip
        client = self.clients[request] = Client(request, first_score=scored)
        body = Submit(
            request, 1, "m", "tcp://gateway", sampling, scored=scored, share=tenant,
            priority=priority, deadline_s=deadline_s, queue_share=queue_share,
            speculative=speculative, emitted=emitted,
        )  # fmt: skip
        self._execute(self.scheduler.submit(body, list(prompt), self.now, tuple(prediction)))
        return client

    def cancel(self, request: str) -> None:
        self.scheduler.cancel(request, 1)

    def moves(self) -> list[Callable[[], None]]:
        """Returns the events that can happen next: the head first."""
        possible: list[Callable[[], None]] = [self._head, self._prepare]
        for index in range(1, len(self.stages)):
            if self._inboxes[index]:
                possible.append(lambda index=index: self._stage(index))
        if self._done:
            possible.append(self._deliver)
        return possible

    def run_rounds(self, rounds: int) -> None:
        """Runs all events that are possible at the start of each round."""
        for _ in range(rounds):
            for move in self.moves():
                move()

    def run(self, limit: int = 100_000) -> None:
        """Runs all events in pipeline order until none is left."""
        for _ in range(limit):
            before = len(self.steps)
            for index in reversed(range(1, len(self.stages))):
                while self._inboxes[index]:
                    self._stage(index)
            while self._done:
                self._deliver()
            self._head()
            self._prepare()
            if len(self.steps) == before and not self._done and not any(self._inboxes):
                return
        raise AssertionError(f"the pipeline still runs after {limit} rounds")

    def tables(self) -> list[object]:
        return [stage.table() for stage in self.stages]

    # Messages ---------------------------------------------------------------------------

    def _head(self) -> None:
        self._execute(self.scheduler.schedule(self.now))

    def _execute(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, RunStep):
                self.steps.append(instruction.step)
                self._run(0, instruction.step, _token_input(instruction))
            else:
                self._update_client(instruction.body)

    def _prepare(self) -> None:
        for stage in self.stages:
            stage.prebuild()

    def _stage(self, index: int) -> None:
        self._run(index, *self._inboxes[index].popleft())

    def _run(self, index: int, step: Step, step_input: StepInput) -> None:
        tensors, buffers = step_input
        computation = self.stages[index].start_step(step, tensors, buffers)
        output = computation.finish()
        if index + 1 < len(self.stages):
            onward = (*tensors[:1], *computation.tensors), (*buffers[:1], *output.buffers)
            self._inboxes[index + 1].append((step, onward))
            return
        if not step.rows:
            return
        self._done.append((step.step, output.sampled))
        if output.prompt_result is not None:
            body, tensors, buffers = output.prompt_result.message
            if isinstance(body, Embedded):
                self._embedding(body, buffers)
            else:
                self._scores(body, tensors, buffers)
        for result in output.token_results:
            self._token(result.token)

    def _deliver(self) -> None:
        step, sampled = self._done.popleft()
        elapsed_us = tuple(self.stage_us for _ in self.stages)
        self._execute(self.scheduler.step_done(step, sampled, elapsed_us))

    def _token(self, token: Token) -> None:
        client = self.clients[token.request]
        if token.index == len(client.tokens) and client.finish is None:
            client.tokens.append(token.token)
            client.chances.append((token.logprob, token.top))
            client.finish = token.finish
            client.right_guesses, client.wrong_guesses = token.accepted, token.rejected

    def _scores(self, body: Scored, tensors: Sequence[Tensor], buffers: Sequence[Buffer]) -> None:
        client = self.clients[body.request]
        expected = client.first_score + len(client.scores)
        assert body.index == expected, f"scores begin at {body.index}, not at {expected}"
        assert not client.tokens, "a score came after a token"
        client.scores += array("f", bytes(buffers[0]))
        count = tensors[1].shape[1]
        ids = array("i", bytes(buffers[1])).tolist()
        client.most_likely += [ids[n * count : (n + 1) * count] for n in range(tensors[1].shape[0])]

    def _embedding(self, body: Embedded, buffers: Sequence[Buffer]) -> None:
        client = self.clients[body.request]
        assert not client.tokens, "an embedding came after a token"
        client.embeddings.append(array("f", bytes(buffers[0])).tolist())

    def _update_client(self, body: Started | Queued | Rejected) -> None:
        if isinstance(body, Queued):
            for place in body.places:
                self.clients[place.request].positions.append(place.position)
            return
        client = self.clients[body.request]
        if isinstance(body, Rejected):
            client.rejected = body
        else:
            client.cached = body.cached


def _token_input(run: RunStep) -> StepInput:
    if not run.tokens:
        return (), ()
    flat = array("i", [token for row in run.tokens for token in row])
    shape = (len(run.tokens), len(run.tokens[0]))
    return (Tensor("int32", shape),), (memoryview(flat).cast("B"),)


def emulated_pipeline(
    limits: SchedulerLimits, acceptance: float | None = None
) -> InProcessPipeline:
    """Returns a pipeline of stages that compute nothing and sample made-up tokens.

    Args:
        acceptance: share of guesses that are right; without it nothing is guessed.
    """
    last = limits.stages - 1
    stages = [
        EmulatedStage(0.0, 1, is_tail=index == last, max_width=limits.max_width)
        for index in range(limits.stages)
    ]
    sources = () if acceptance is None else (ForcedSource(acceptance),)
    return InProcessPipeline(stages, limits, sources)


def greedy(max_tokens: int) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=0.0)
