"""The thread that runs the steps. It owns the data sockets and all MLX work."""

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
from pomona_stage_worker.engine.progress_watch import Activity, Kind
from pomona_stage_worker.engine.stage_runner import StageRunner, epoch_failed

log = logging.getLogger(__name__)

IDLE_POLL_S = 0.5
YIELD_S = 0.001
"""Wait before work in advance. The thread that sends the last message, and the next stage, may
share a core with this one and go first."""
SPIN_S = 0.002
"""Longest busy wait for the second part of a message that comes soon, twice its usual time."""

DROPPED = Counter("pomona_stage_dropped_messages", "Messages dropped", ["reason"])


class StepLoop(threading.Thread):
    """Receives a message, runs its step and sends the result, without a queue or another thread
    in between.

    The control thread hands over functions with :meth:`call`, which wakes the loop.

    Attributes:
        runners: by epoch; only for functions that run in the loop.

    Args:
        on_rest: called once when no message came for ``IDLE_POLL_S`` after the last one.
        on_idle: called at least every ``IDLE_POLL_S`` without a message, with the seconds since
            the last one.
    """

    def __init__(
        self,
        identity: Identity,
        pull: Pull,
        on_rest: Callable[[], None] = lambda: None,
        on_idle: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(name="steps", daemon=True)
        self.runners: dict[int, StageRunner] = {}
        self._identity = identity
        self._pull = pull
        self._wake = pull.waker()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._partial_messages = PartialMessages()
        self._spin_until = 0.0
        self._stopping = False
        self._on_rest = on_rest
        self._on_idle = on_idle
        self._at_rest = True
        self._received_at = time.monotonic()
        self._turn_activity = Activity("turn", time.monotonic())

    # For the control thread ------------------------------------------------------------

    def call(self, function: Callable[[], None]) -> None:
        """Has the loop call ``function`` between two steps."""
        self._calls.put(function)
        self._wake()

    def activity(self) -> Activity:
        """Returns what the loop does now: the step that runs, a call, or a turn of the loop."""
        for runner in list(self.runners.values()):
            if (step := runner.step_activity) is not None:
                return step
        return self._turn_activity

    def stop(self, timeout_s: float) -> bool:
        """Ends the loop after the present step. Returns False when that takes too long."""

        def end() -> None:
            self._stopping = True

        self.call(end)
        self.join(timeout_s)
        return not self.is_alive()

    # In the loop -----------------------------------------------------------------------

    def run(self) -> None:
        while not self._stopping:
            self._run_calls()
            self._begin("turn")
            steps_run = [runner.run_next_step() for runner in self.runners.values()]
            if any(steps_run):
                self._receive_all(0.0)
            elif self._is_spinning:
                # The thread that receives the second part may need this core. A sleep, however
                # short, would let the core halt and wake up late.
                if not self._receive_all(0.0):
                    os.sched_yield()
            elif not self._receive_all(YIELD_S) and not self._prepare():
                self._wait_idle()
        for runner in self.runners.values():
            runner.close("the stage worker is stopping; submit again in the next epoch")
        self._pull.close()

    def _prepare(self) -> bool:
        """Does work in advance for one stage. Returns False when there is none."""
        return any(runner.prepare() for runner in self.runners.values())

    def _wait_idle(self) -> None:
        """Waits for a message; without one, updates what the beacon reports of the caches."""
        if not self._receive_all(self._idle_s()):
            for runner in self.runners.values():
                runner.update_idle_load()
            if not self._at_rest:
                self._at_rest = True
                self._on_rest()
            if self.runners and self._on_idle is not None:
                self._on_idle(time.monotonic() - self._received_at)

    def _receive_all(self, timeout_s: float) -> bool:
        """Handles all messages that have arrived, waiting for the first one.

        A head returns then, since it has steps to issue. Any other stage waits ``YIELD_S`` after
        each message: the next stage may need this core for the message just sent.

        Returns False when no message came in time.
        """
        received = False
        while True:
            try:
                self._begin("turn")
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
            self._at_rest = False
            self._received_at = time.monotonic()
            timeout_s = 0.0 if self._has_head or self._is_spinning else YIELD_S

    def _dispatch(self, message: Message) -> None:
        envelope = message.envelope
        if envelope.cluster != self._identity.cluster:
            DROPPED.labels("other_cluster").inc()
            return
        body = envelope.body
        runner = self.runners.get(envelope.epoch)
        is_step = isinstance(body, Step | StepDone)
        if is_step and runner is not None and not runner.is_planned_sender(envelope):
            DROPPED.labels("unplanned_sender").inc()
            return
        if envelope.later:
            self._add_first_part(message)
            return
        if runner is not None and runner.failure is None:
            runner.handle(message)
        elif isinstance(body, Submit):
            self._reject(body)
        elif not isinstance(body, Cancel):
            DROPPED.labels("stale_epoch").inc()

    def _add_first_part(self, message: Message) -> None:
        """Keeps a first part while the sender computes the second."""
        body = message.envelope.body
        if not isinstance(body, Step | StepDone):
            raise ProtocolError(f"a {body.kind} does not come in two parts")
        self._partial_messages.add(message)
        if message.envelope.soon:
            self._spin_until = time.monotonic() + SPIN_S

    def _complete(self, rest: MessageRest) -> None:
        first = self._partial_messages.take(rest)
        self._spin_until = 0.0
        runner = self.runners.get(first.envelope.epoch)
        if runner is not None and runner.failure is None:
            runner.handle_parts(first, rest)
        else:
            DROPPED.labels("stale_epoch").inc()

    def _reject(self, body: Submit) -> None:
        """Rejects a request for an epoch that is not here; its gateway need not time out."""
        try:
            link = Push(self._identity, body.reply, queue_when_disconnected=True)
            link.send(epoch_failed(body, "the pipeline has changed"), wait=False)
            link.close(linger_s=1.0)
        except PomonaError as error:
            log.warning("cannot send to gateway %s: %s", body.reply, error)

    @property
    def _is_spinning(self) -> bool:
        """True while the second part of a message is expected within ``SPIN_S``."""
        return time.monotonic() < self._spin_until

    @property
    def _has_head(self) -> bool:
        return any(runner.is_head for runner in self.runners.values())

    def _run_calls(self) -> None:
        while not self._calls.empty():
            self._begin("call")
            self._calls.get()()

    def _begin(self, kind: Kind) -> None:
        self._turn_activity = Activity(kind, time.monotonic())

    def _idle_s(self) -> float:
        """Returns the seconds until a waiting request expires, at most ``IDLE_POLL_S``."""
        deadlines = [
            deadline
            for runner in self.runners.values()
            if runner.scheduler is not None
            and (deadline := runner.scheduler.next_deadline()) is not None
        ]
        if not deadlines:
            return IDLE_POLL_S
        return min(IDLE_POLL_S, max(min(deadlines) - time.monotonic(), 0.001))
