"""Sends the result of each step over a link, in one part or in two."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pomona.errors import LinkLostError
from pomona.messages.codec import Buffer
from pomona.messages.pipeline import Step, StepDone, Tensor
from pomona.transport import Push
from pomona_stage_worker.engine.send_timing import SendTimer


@dataclass(frozen=True, slots=True)
class StepResult:
    """The message with a step's result, without the buffers that are still being computed.

    Attributes:
        step: the step itself.
        shape: (rows, length) of the step's token ids.
        body: its ``elapsed_us`` has the compute times of the stages before.
        tensors: all tensors of the message.
        known: buffers of the first tensors, known before the computation.
    """

    step: Step
    shape: tuple[int, ...]
    body: Step | StepDone
    tensors: tuple[Tensor, ...]
    known: tuple[Buffer, ...]


class StepSender:
    """The link from a stage to the next one, or from the tail to the head.

    The first part of a message has all that is known before the computation. It is sent while the
    step is computed, at the moment that :class:`SendTimer` chooses. For each step,
    :meth:`send_first_part` is called before the wait for the computation and :meth:`send_computed`
    after it.
    """

    def __init__(self, link: Push, epoch: int) -> None:
        self._link = link
        self._epoch = epoch
        self._timer = SendTimer()
        self._has_sent_first_part = False
        self._waited_s = 0.0

    def send_first_part(self, result: StepResult, began_ns: int, can_wait: bool) -> None:
        """Sends the first part, unless the message is better sent in one.

        Args:
            began_ns: start of the step, time.monotonic_ns().
            can_wait: True when the computation goes on while this thread sleeps.
        """
        step = result.step
        delay_s = self._timer.first_part_delay(step.lane, result.shape) if step.rows else None
        self._has_sent_first_part = delay_s is not None
        self._waited_s = 0.0
        if delay_s is None:
            return
        if can_wait:
            self._waited_s = _wait(began_ns / 1e9, delay_s)
        soon = self._waited_s > 0.0
        self._link.send_first_part(result.body, self._epoch, result.tensors, result.known, soon)

    def send_computed(
        self, result: StepResult, computed: Sequence[Buffer], elapsed_ns: int
    ) -> None:
        """Sends the computed buffers, as the second part or with the whole message.

        Args:
            elapsed_ns: time from the start of the step to its result.
        """
        step, body, elapsed_us = result.step, result.body, elapsed_ns // 1000
        if self._has_sent_first_part:
            self._link.send_rest(elapsed_us, computed)
        else:
            body = replace(body, elapsed_us=(*body.elapsed_us, elapsed_us))
            self._link.send(body, self._epoch, result.tensors, (*result.known, *computed))
        if step.rows:
            self._timer.observe(step.lane, result.shape, elapsed_ns / 1e9, self._waited_s)

    def check(self) -> None:
        """Raises LinkLostError when the link has lost a connection since it was made."""
        if self._link.has_reconnected():
            raise LinkLostError(self._link.endpoint)

    def close(self) -> None:
        self._link.close()


def _wait(begin: float, seconds: float) -> float:
    """Sleeps until ``seconds`` after ``begin``, a time of time.monotonic().

    Returns the time from ``begin`` to the end of the sleep; 0 when the moment has passed.
    """
    left = begin + seconds - time.monotonic()
    if left <= 0.0:
        return 0.0
    time.sleep(left)
    return time.monotonic() - begin
