"""Why a request is refused, in words and numbers for whoever sent it."""

from __future__ import annotations

from dataclasses import dataclass

from pomona.messages.pipeline import Submit
from pomona_stage_worker.scheduler.limits import SchedulerLimits

RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status and a code of HTTP's kind, and what to do about it."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None


EMPTY_PROMPT = Refusal(400, "empty_prompt", "the prompt holds no token; send some text")


def too_long(tokens: int, limits: SchedulerLimits) -> Refusal:
    return Refusal(
        400,
        "context_length_exceeded",
        f"{tokens} tokens do not fit: the model reads {limits.context_length} tokens "
        f"and this cluster's caches hold {limits.cache_tokens}; shorten the prompt",
    )


def share_full(submit: Submit) -> Refusal:
    return Refusal(
        429,
        "queue_share_full",
        f"requests of this key fill {submit.queue_share:.0%} of the queue, and may not "
        "fill more; try again later",
        RETRY_AFTER_S,
    )


def queue_full(waiting: int) -> Refusal:
    return Refusal(
        429,
        "queue_full",
        f"{waiting} requests are waiting already; try again later",
        RETRY_AFTER_S,
    )


def waited_too_long(submit: Submit) -> Refusal:
    return Refusal(
        503,
        "queue_timeout",
        f"the request waited {submit.deadline_s:g} s and was not begun: "
        "the cluster is busy; try again later",
        RETRY_AFTER_S,
    )
