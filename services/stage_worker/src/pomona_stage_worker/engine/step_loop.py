"""The thread that runs the steps: it owns the data sockets and all of MLX's work."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable

from prometheus_client import Counter

from pomona.errors import PomonaError, ProtocolError
from pomona.messages.codec import Message, MessageRest
from pomona.messages.pipeline import Cancel, Step, StepDone, Submit
from pomona.transport import Identity, Pull, Push
from pomona_stage_worker.engine.partial_messages import PartialMessages
from pomona_stage_worker.engine.stage_runner import StageRunner, rejected_epoch

log = logging.getLogger(__name__)

IDLE_POLL_S = 0.5
BREATH_S = 0.001
"""Before work in advance: what was just sent must leave first, and its thread may have to
share a core with this one."""
AWAKE_S = 0.002
"""How long the rest of a message that comes soon is awaited awake; mostly it takes half of that."""

DROPPED = Counter("pomona_stage_dropped_messages", "Messages dropped", ["reason"])


class StepLoop(threading.Thread):
    """Receive, decide, compute, send: nothing stands between a message and its step.

    The control thread hands over what to do with :meth:`call`; the loop is woken for it.
    """

    def __init__(self, identity: Identity, pull: Pull) -> None:
        super().__init__(name="steps", daemon=True)
        self.runtimes: dict[int, StageRunner] = {}
        self._identity = identity
        self._pull = pull
        self._wake = pull.waker()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._awaited = PartialMessages()
        self._awake_until = 0.0
        self._stopping = False

    # From the control thread -----------------------------------------------------------

    def call(self, function: Callable[[], None]) -> None:
        """Have the loop call ``function`` between two steps."""
        self._calls.put(function)
        self._wake()

    def stop(self, timeout_s: float) -> bool:
        """End the loop after the step that runs now. False when it does not end in time."""

        def end() -> None:
            self._stopping = True

        self.call(end)
        self.join(timeout_s)
        return not self.is_alive()

    # In the loop -----------------------------------------------------------------------

    def run(self) -> None:
        while not self._stopping:
            self._make_calls()
            runtimes = list(self.runtimes.values())
            advanced = [runtime.advance() for runtime in runtimes]
            if any(advanced):
                self._receive_all(0.0)
                continue
            if self._is_awake:
                # The thread that takes the rest off the wire may need this core; one that
                # slept even for a moment would let the core halt, and wake late.
                if not self._receive_all(0.0):
                    os.sched_yield()
                continue
            if self._receive_all(BREATH_S) or any(runtime.prepare() for runtime in runtimes):
                continue
            if self._receive_all(self._idle_s()):
                continue
            for runtime in runtimes:
                runtime.rest()
        for runtime in self.runtimes.values():
            runtime.close("the stage worker is stopping; the request goes on elsewhere if it can")
        self._pull.close()

    def _receive_all(self, timeout_s: float) -> bool:
        """Take in what has arrived, waiting for the first message. False if none did.

        A head then has steps to issue. Any other worker takes a breath right here: the stage
        after it may need this core for what it was just sent.
        """
        received = False
        while True:
            try:
                part = self._pull.receive_part(timeout_s)
                if part is None:
                    return received
                if isinstance(part, MessageRest):
                    self._complete(part)
                else:
                    self._dispatch(part)
            except ProtocolError as error:
                DROPPED.labels("malformed").inc()
                log.warning("dropped: %s", error)
            received = True
            timeout_s = 0.0 if self._leads or self._is_awake else BREATH_S

    def _dispatch(self, message: Message) -> None:
        envelope = message.envelope
        if envelope.cluster != self._identity.cluster:
            DROPPED.labels("other_cluster").inc()
            return
        body = envelope.body
        if envelope.later:
            self._await_rest(message)
            return
        runtime = self.runtimes.get(envelope.epoch)
        if runtime is not None and runtime.failure is None:
            runtime.handle(message)
        elif isinstance(body, Submit):
            self._refuse(body)
        elif not isinstance(body, Cancel):
            DROPPED.labels("stale_epoch").inc()

    def _await_rest(self, message: Message) -> None:
        """Keep the first part of a message while the stage before computes the rest."""
        body = message.envelope.body
        if not isinstance(body, Step | StepDone):
            raise ProtocolError(f"a {body.kind} does not come in two parts")
        self._awaited.add(message)
        if message.envelope.soon:
            self._awake_until = time.monotonic() + AWAKE_S

    def _complete(self, rest: MessageRest) -> None:
        """The rest of a message has come."""
        message = self._awaited.take(rest)
        self._awake_until = 0.0
        runtime = self.runtimes.get(message.envelope.epoch)
        if runtime is not None and runtime.failure is None:
            runtime.complete(message, rest)
        else:
            DROPPED.labels("stale_epoch").inc()

    def _refuse(self, body: Submit) -> None:
        """A gateway that has not heard of the new epoch yet must not wait in vain."""
        try:
            link = Push(self._identity, body.reply, queue_when_disconnected=True)
            link.send(rejected_epoch(body, "the pipeline has changed"), wait=False)
            link.close(linger_s=1.0)
        except PomonaError as error:
            log.warning("a gateway cannot be told: %s", error)

    @property
    def _is_awake(self) -> bool:
        """Whether the rest of a message is to come in a moment."""
        return time.monotonic() < self._awake_until

    @property
    def _leads(self) -> bool:
        """Whether a stage here is a pipeline's head."""
        return any(runtime.is_head for runtime in self.runtimes.values())

    def _make_calls(self) -> None:
        while not self._calls.empty():
            self._calls.get()()

    def _idle_s(self) -> float:
        deadlines = [
            deadline
            for runtime in self.runtimes.values()
            if runtime.scheduler is not None
            and (deadline := runtime.scheduler.next_deadline()) is not None
        ]
        if not deadlines:
            return IDLE_POLL_S
        return min(IDLE_POLL_S, max(min(deadlines) - time.monotonic(), 0.001))
