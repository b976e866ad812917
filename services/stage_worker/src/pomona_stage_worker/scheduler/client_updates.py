"""What gateways are told of their requests: how far they are, where they wait, why not."""

from __future__ import annotations

from dataclasses import dataclass

from pomona.messages.pipeline import Queued, Rejected, Started, Submit
from pomona_stage_worker.scheduler.refusals import Refusal
from pomona_stage_worker.scheduler.request_queue import RequestQueue
from pomona_stage_worker.scheduler.sequence import Sequence

TELL_QUEUE_S = 1.0
"""Between two reports of who waits where."""


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """A message for a gateway."""

    reply: str
    body: Started | Queued | Rejected


class ClientUpdates:
    """Collected until they are taken."""

    def __init__(self) -> None:
        self._notices: list[ClientUpdate] = []
        self._told_queue_at = -TELL_QUEUE_S

    def take(self) -> list[ClientUpdate]:
        notices, self._notices = self._notices, []
        return notices

    def progress(self, sequence: Sequence, in_flight: int = 0) -> None:
        """A prompt is begun, or more of it is read. Args: in_flight: tokens of chunks that are
        not done."""
        submit = sequence.submit
        body = Started(
            submit.request,
            submit.attempt,
            cached=sequence.origin[1] if sequence.origin else 0,
            prefilled=sequence.computed - in_flight,
            total=sequence.target,
        )
        self._notices.append(ClientUpdate(submit.reply, body))

    def places(self, waiting: RequestQueue, now: float) -> None:
        """Every now and then, which requests wait, and at which places."""
        if not waiting or now - self._told_queue_at < TELL_QUEUE_S:
            return
        self._told_queue_at = now
        self._notices += [ClientUpdate(reply, body) for reply, body in waiting.places(now).items()]

    def rejected(self, submit: Submit, refusal: Refusal) -> None:
        body = Rejected(
            submit.request,
            submit.attempt,
            refusal.status,
            refusal.code,
            refusal.message,
            retry_after_s=refusal.retry_after_s,
        )
        self._notices.append(ClientUpdate(submit.reply, body))
