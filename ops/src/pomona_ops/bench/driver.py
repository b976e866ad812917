"""Submits token ids to the head of a pipeline and times the tokens, without a gateway."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from pomona.addresses import at_node
from pomona.messages.control import Pipeline, PlannerFacts
from pomona.messages.pipeline import Cancel, Queued, Rejected, Started, Submit, Tensor, Tokens
from pomona.messages.sampling import Sampling
from pomona.transport import BeaconReceiver, Identity, Pull, Push, installed
from pomona_ops.bench.clusters import BenchError
from pomona_ops.cluster.ports import LOOPBACK

_numbers = itertools.count(1)


@dataclass(slots=True)
class Reply:
    """The reply to one request.

    Attributes:
        submitted_at, moments: time of the request and of each token, of time.perf_counter().
        cached: prompt tokens found in the prefix cache.
        finish: finish reason; None while it runs.
        refusal: message of a rejected request.
        accepted, rejected: guessed tokens that were right and wrong.
    """

    request: str
    submitted_at: float
    tokens: list[int] = field(default_factory=list[int])
    moments: list[float] = field(default_factory=list[float])
    cached: int = 0
    finish: str | None = None
    refusal: str | None = None
    accepted: int = 0
    rejected: int = 0

    @property
    def first_token_s(self) -> float:
        return self.moments[0] - self.submitted_at

    @property
    def intervals(self) -> list[float]:
        """Seconds between tokens."""
        return [b - a for a, b in itertools.pairwise(self.moments)]


async def active_pipeline(control_subscribe: str, cluster: str, timeout_s: float) -> Pipeline:
    """Waits for a planner beacon with an active pipeline. Raises BenchError."""
    receiver = BeaconReceiver(control_subscribe, cluster)
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    try:
        while loop.time() < end:
            beacon = await receiver.receive(0.5)
            if beacon is not None and isinstance(beacon.facts, PlannerFacts):
                for pipeline in beacon.facts.pipelines:
                    if pipeline.state == "active":
                        return pipeline
    finally:
        await receiver.close()
    raise BenchError(f"no pipeline became active within {timeout_s:g} s")


class Driver:
    """Sends requests to the head of one pipeline. Blocking; not thread-safe.

    Args:
        host: address of this machine, to which the tail sends tokens.
    """

    def __init__(self, pipeline: Pipeline, cluster: str, host: str = LOOPBACK) -> None:
        self._pipeline = pipeline
        identity = Identity(cluster, f"driver-{secrets.token_hex(4)}", secrets.token_hex(8))
        self._pull = Pull(host)
        head = pipeline.stages[0]
        self._push = Push(identity, at_node(head.endpoint, head.node))
        trust = installed()
        node = trust.member.name if trust is not None and trust.member is not None else ""
        self._reply = at_node(self._pull.endpoint, node)
        self._replies: dict[str, Reply] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._push.close()
        self._pull.close()

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        share: str = "",
        speculative: bool = False,
    ) -> Reply:
        """Sends a request; :meth:`collect` receives its tokens.

        Args:
            speculative: let the head guess tokens; the measurements of plain decoding do not.
        """
        request = f"bench-{next(_numbers)}"
        body = Submit(
            request, 1, self._pipeline.model, self._reply, sampling, share=share,
            speculative=speculative,
        )  # fmt: skip
        buffer = memoryview(array("i", prompt)).cast("B")
        reply = self._replies[request] = Reply(request, time.perf_counter())
        tensor = Tensor("int32", (len(prompt),))
        self._push.send(body, self._pipeline.epoch, (tensor,), (buffer,))
        return reply

    def cancel(self, reply: Reply) -> None:
        """Cancels a request; :meth:`collect` does not wait for it."""
        self._push.send(Cancel(reply.request, 1), self._pipeline.epoch)
        reply.finish = "cancelled"

    def collect(self, replies: Iterable[Reply], timeout_s: float = 300.0) -> None:
        """Receives until all have ended. Raises BenchError when one is rejected or late."""
        wanted = list(replies)
        end = time.perf_counter() + timeout_s
        while any(reply.finish is None for reply in wanted):
            self.receive(max(end - time.perf_counter(), 0.0))
            rejected = next((reply for reply in wanted if reply.refusal), None)
            if rejected is not None:
                raise BenchError(f"{rejected.request} was rejected: {rejected.refusal}")
            if time.perf_counter() >= end:
                raise BenchError(f"requests did not end within {timeout_s:g} s")

    def receive(self, timeout_s: float) -> None:
        """Receives one message, if one arrives in time."""
        message = self._pull.receive(timeout_s)
        now = time.perf_counter()
        if message is None:
            return
        match message.envelope.body:
            case Tokens() as body:
                for token in body.tokens:
                    reply = self._replies[token.request]
                    reply.tokens.append(token.token)
                    reply.moments.append(now)
                    reply.finish = token.finish or reply.finish
                    reply.accepted, reply.rejected = token.accepted, token.rejected
            case Started() as body:
                self._replies[body.request].cached = body.cached
            case Rejected() as body:
                self._replies[body.request].refusal = body.message
            case Queued():
                pass
            case body:
                raise BenchError(f"unexpected message to a gateway: {body.kind}")
