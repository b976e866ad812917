"""A pipeline in one thread: real stages and scheduler, links as queues that a test drives.

The order in which stages take their next message is the test's, so every interleaving that
processes could show can be tried; each link stays first-in first-out, as ZeroMQ's are.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pomona.messages.codec import Buffer
from pomona.messages.pipeline import Embedded, Queued, Rejected, Scored, Step, Submit, Tensor, Token
from pomona.messages.sampling import Sampling
from pomona_stage_worker.model.mlx_stage import Stage
from pomona_stage_worker.sampling.sampled_tensors import SampledToken
from pomona_stage_worker.scheduler import Scheduler, SchedulerLimits

Passed: TypeAlias = tuple[tuple[Tensor, ...], tuple[Buffer, ...]]
"""What a stage gets: token ids, and the activations of the one before."""


@dataclass
class Client:
    """What a gateway would know of one request."""

    request: str
    tokens: list[int] = field(default_factory=list[int])
    finish: str | None = None
    rejected: Rejected | None = None
    cached: int = 0
    positions: list[int] = field(default_factory=list[int])
    first_score: int = 0
    scores: list[float] = field(default_factory=list[float])
    likeliest: list[list[int]] = field(default_factory=list[list[int]])
    embeddings: list[list[float]] = field(default_factory=list[list[float]])


class InProcessPipeline:
    """Args: stages: in order. Time stands still unless the test moves ``now``."""

    def __init__(self, stages: Sequence[Stage], limits: SchedulerLimits) -> None:
        self.stages = list(stages)
        self.scheduler = Scheduler(limits)
        self.clients: dict[str, Client] = {}
        self.now = 0.0
        self.steps: list[Step] = []
        self._inboxes: list[deque[tuple[Step, Passed]]] = [deque() for _ in stages]
        self._done: deque[tuple[int, list[SampledToken]]] = deque()

    # What a test can do -----------------------------------------------------------------

    def submit(
        self, request: str, prompt: Sequence[int], sampling: Sampling, share: str = "",
        deadline_s: float = 60.0, priority: int = 0, queue_share: float = 1.0, scored: int = 0,
    ) -> Client:  # fmt: skip
        client = self.clients[request] = Client(request, first_score=scored)
        body = Submit(
            request, 1, "m", "tcp://gateway", sampling, scored=scored, share=share,
            priority=priority, deadline_s=deadline_s, queue_share=queue_share,
        )  # fmt: skip
        self.scheduler.submit(body, list(prompt), self.now)
        self._notices()
        return client

    def cancel(self, request: str) -> None:
        self.scheduler.cancel(request, 1)

    def moves(self) -> list[Callable[[], None]]:
        """What could happen next."""
        possible: list[Callable[[], None]] = [self._head, self._prepare]
        for index in range(1, len(self.stages)):
            if self._inboxes[index]:
                possible.append(lambda index=index: self._stage(index))
        if self._done:
            possible.append(self._deliver)
        return possible

    def run(self, limit: int = 100_000) -> None:
        """In pipeline order until nothing moves."""
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
        raise AssertionError("the pipeline never came to rest")

    def tables(self) -> list[object]:
        return [stage.table() for stage in self.stages]

    # What happens -----------------------------------------------------------------------

    def _head(self) -> None:
        planned = self.scheduler.next_step(self.now)
        self._notices()
        if planned is None:
            return
        self.steps.append(planned.step)
        tensors: tuple[Tensor, ...] = ()
        buffers: tuple[Buffer, ...] = ()
        if planned.tokens:
            tensors = (Tensor("int32", (len(planned.tokens), len(planned.tokens[0]))),)
            flat = array("i", [token for row in planned.tokens for token in row])
            buffers = (memoryview(flat).cast("B"),)
        self._run(0, planned.step, (tensors, buffers))

    def _prepare(self) -> None:
        for stage in self.stages:
            stage.prebuild()

    def _stage(self, index: int) -> None:
        step, given = self._inboxes[index].popleft()
        self._run(index, step, given)

    def _run(self, index: int, step: Step, given: Passed) -> None:
        tensors, buffers = given
        computation = self.stages[index].start_step(step, tensors, buffers)
        output = computation.finish()
        if index + 1 < len(self.stages):
            passed = (*tensors[:1], *computation.tensors), (*buffers[:1], *output.buffers)
            self._inboxes[index + 1].append((step, passed))
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
        self.scheduler.step_done(step, sampled, tuple(1000 for _ in self.stages))

    def _token(self, token: Token) -> None:
        client = self.clients[token.request]
        if token.index == len(client.tokens) and client.finish is None:
            client.tokens.append(token.token)
            client.finish = token.finish

    def _scores(self, body: Scored, tensors: Sequence[Tensor], buffers: Sequence[Buffer]) -> None:
        client = self.clients[body.request]
        asked = client.first_score + len(client.scores)
        assert body.index == asked, f"scores from {body.index} came, not from {asked}"
        assert not client.tokens, "a score came after a token"
        client.scores += array("f", bytes(buffers[0]))
        count = tensors[1].shape[1]
        ids = array("i", bytes(buffers[1])).tolist()
        client.likeliest += [ids[n * count : (n + 1) * count] for n in range(tensors[1].shape[0])]

    def _embedding(self, body: Embedded, buffers: Sequence[Buffer]) -> None:
        client = self.clients[body.request]
        assert not client.tokens, "an embedding came after a token"
        client.embeddings.append(array("f", bytes(buffers[0])).tolist())

    def _notices(self) -> None:
        for notice in self.scheduler.take_notices():
            if isinstance(notice.body, Queued):
                for place in notice.body.places:
                    self.clients[place.request].positions.append(place.position)
                continue
            client = self.clients[notice.body.request]
            if isinstance(notice.body, Rejected):
                client.rejected = notice.body
            else:
                client.cached = notice.body.cached
