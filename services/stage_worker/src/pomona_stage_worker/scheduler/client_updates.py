"""Messages to gateways about their requests: prefill progress, queue places, rejections."""

from __future__ import annotations

from dataclasses import dataclass

from pomona.messages.pipeline import Queued, Rejected, Started, Submit
from pomona.queue_policy import QueuePolicy
from pomona_stage_worker.scheduler.limits import SchedulerLimits
from pomona_stage_worker.scheduler.request_queue import RequestQueue
from pomona_stage_worker.scheduler.sequence import Sequence

QUEUE_REPORT_S = 1.0
"""Interval between reports of queue places, seconds."""
RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class SendUpdate:
    """Instruction to send ``body`` to the gateway at ``reply``."""

    reply: str
    body: Started | Queued | Rejected


class QueueReport:
    """Reports the places of waiting requests, at most once every ``QUEUE_REPORT_S``."""

    def __init__(self) -> None:
        self._reported_at = -QUEUE_REPORT_S

    def updates(self, queue: RequestQueue, now: float) -> list[SendUpdate]:
        """Returns a message for each gateway with waiting requests; none before the interval
        has passed."""
        if not queue or now - self._reported_at < QUEUE_REPORT_S:
            return []
        self._reported_at = now
        return [SendUpdate(reply, body) for reply, body in queue.places(now).items()]


def progress(sequence: Sequence, in_flight: int = 0) -> SendUpdate:
    """Reports how much of a prompt is prefilled, without ``in_flight`` tokens of pending chunks."""
    submit = sequence.submit
    body = Started(
        submit.request,
        submit.attempt,
        cached=sequence.reused,
        prefilled=sequence.computed - in_flight,
        total=sequence.target,
    )
    return SendUpdate(submit.reply, body)


def empty_prompt(submit: Submit) -> SendUpdate:
    return _reject(submit, 400, "empty_prompt", "the prompt has no tokens; send some text")


def prompt_too_long(submit: Submit, tokens: int, limits: SchedulerLimits) -> SendUpdate:
    message = (
        f"the prompt of {tokens} tokens is too long: the model's context has "
        f"{limits.context_length} tokens and this cluster's KV caches hold "
        f"{limits.cache_tokens}; shorten the prompt"
    )
    return _reject(submit, 400, "context_length_exceeded", message)


def queue_share_full(submit: Submit, policy: QueuePolicy) -> SendUpdate:
    message = (
        f"requests of this key fill {policy.queue_share:.0%} of the queue, which is its limit; "
        "try again later"
    )
    return _reject(submit, 429, "queue_share_full", message, RETRY_AFTER_S)


def queue_full(submit: Submit, waiting: int) -> SendUpdate:
    message = f"the queue is full with {waiting} requests; try again later"
    return _reject(submit, 429, "queue_full", message, RETRY_AFTER_S)


def queue_timeout(submit: Submit) -> SendUpdate:
    message = (
        f"the request waited {submit.deadline_s:g} s and was not started: "
        "the cluster is busy; try again later"
    )
    return _reject(submit, 503, "queue_timeout", message, RETRY_AFTER_S)


def _reject(
    submit: Submit, status: int, code: str, message: str, retry_after_s: int | None = None
) -> SendUpdate:
    body = Rejected(submit.request, submit.attempt, status, code, message, retry_after_s)
    return SendUpdate(submit.reply, body)
