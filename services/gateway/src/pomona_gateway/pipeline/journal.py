"""The journal of running requests: pure. Events in, instructions out, time is a parameter.

For each request it holds the prompt, the ids emitted so far, the attempt and the next
index. A token counts only for the current attempt and the next index, and so do the
log-probabilities of a prompt. When the epoch of
an attempt is over, the request waits for a route and is submitted again, prompt and
emitted ids, as the next attempt; the client sees a pause.

::

    open --> waiting --route--> running --last token--> done
                ^                  |
                +--- epoch over ---+--- deadline, attempts used up, refused --> failed
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pomona.errors import RequestError
from pomona.messages.pipeline import QueuePlace, Rejected, Started, Token
from pomona.messages.sampling import Sampling
from pomona_gateway.pipeline.embedding import Embedding
from pomona_gateway.pipeline.prompt_results import PromptScores
from pomona_gateway.pipeline.router import Route

RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """Deadlines in seconds, and how many epochs a request may try."""

    first_token_s: float
    token_s: float
    recovery_s: float
    max_attempts: int


@dataclass(frozen=True, slots=True)
class Send:
    """Submit ``ids`` (prompt, then ``emitted`` ids of the reply) to the route's head.
    ``scored``: how many log-probabilities of the prompt have arrived."""

    route: Route
    request: str
    attempt: int
    ids: array[int]
    emitted: int
    scored: int
    sampling: Sampling
    share: str
    priority: int
    queue_share: float


@dataclass(frozen=True, slots=True)
class SendCancel:
    route: Route
    request: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """The next token of the reply. After the one with ``finish`` the request is done."""

    token: Token


@dataclass(frozen=True, slots=True)
class DeliverScores:
    """The next log-probabilities of the prompt."""

    scores: PromptScores


@dataclass(frozen=True, slots=True)
class DeliverEmbedding:
    """The embedding of the prompt."""

    embedding: Embedding


@dataclass(frozen=True, slots=True)
class Progress:
    """The request has this place in the head's queue, or the head did a part of its prompt."""

    news: QueuePlace | Started


@dataclass(frozen=True, slots=True)
class Fail:
    """The request is over, with an error for its client."""

    request: str
    error: RequestError


Instruction: TypeAlias = (
    Send | SendCancel | Deliver | DeliverScores | DeliverEmbedding | Progress | Fail
)


@dataclass(slots=True)
class Entry:
    """One request. ``route`` is None while it waits for one; ``since`` is when its current
    wait (for a route or a token) began."""

    request: str
    model: str
    prompt: array[int]
    sampling: Sampling
    share: str
    priority: int
    opened: float
    since: float
    queue_share: float = 1.0
    attempt: int = 0
    route: Route | None = None
    left: Route | None = None
    emitted: list[int] = field(default_factory=list[int])
    scored: int = 0
    embedded: bool = False

    @property
    def unscored(self) -> int:
        """Log-probabilities of the prompt that are asked for and have not come."""
        asked = self.sampling.prompt_logprobs is not None
        return len(self.prompt) - 1 - self.scored if asked else 0


@dataclass(slots=True)
class Dropped:
    """Messages that came and were not taken, by reason."""

    unknown: int = 0
    stale: int = 0
    duplicate: int = 0
    gap: int = 0


class Journal:
    """All running requests of one gateway."""

    def __init__(self, limits: JournalLimits) -> None:
        self.dropped = Dropped()
        self._limits = limits
        self._entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def open(self, entry: Entry, route: Route) -> list[Instruction]:
        """A request begins on a route."""
        self._entries[entry.request] = entry
        return [self._send(entry, route)]

    def close(self, request: str) -> list[Instruction]:
        """Nobody wants the rest of the reply: stop working on it."""
        entry = self._entries.pop(request, None)
        if entry is None or entry.route is None:
            return []
        return [SendCancel(entry.route, request, entry.attempt)]

    def routed(self, routes: Mapping[str, Route], now: float) -> list[Instruction]:
        """The routes are these now: move what runs on another one, send what waits."""
        out: list[Instruction] = []
        for entry in self.entries():
            route = routes.get(entry.model)
            if entry.route is not None and entry.route == route:
                # The way to the head may be another now.
                entry.route = route
            elif entry.route is not None:
                out += self._leave(entry, now)
            if entry.request in self._entries and entry.route is None:
                out += self._resend(entry, route, now)
        return out

    def token(self, token: Token, now: float) -> list[Instruction]:
        """A token arrived."""
        entry = self._of(token)
        if entry is None:
            return []
        if token.index < len(entry.emitted):
            self.dropped.duplicate += 1
            return []
        missing = entry.unscored or (entry.sampling.embedding and not entry.embedded)
        if token.index > len(entry.emitted) or missing:
            self.dropped.gap += 1
            return self._again(entry, now)
        entry.emitted.append(token.token)
        entry.since = now
        if token.finish is not None:
            del self._entries[token.request]
        return [Deliver(token)]

    def scored(self, scores: PromptScores, now: float) -> list[Instruction]:
        """Log-probabilities of a prompt arrived; they come before its first token."""
        entry = self._of(scores)
        if entry is None:
            return []
        if scores.index < entry.scored or len(scores.logprobs) > entry.unscored:
            self.dropped.duplicate += 1
            return []
        if scores.index > entry.scored:
            self.dropped.gap += 1
            return self._again(entry, now)
        entry.scored += len(scores.logprobs)
        entry.since = now
        return [DeliverScores(scores)]

    def embedded(self, embedding: Embedding, now: float) -> list[Instruction]:
        """The embedding of a prompt arrived; it comes before the token."""
        entry = self._of(embedding)
        if entry is None:
            return []
        if entry.embedded:
            self.dropped.duplicate += 1
            return []
        entry.embedded = True
        entry.since = now
        return [DeliverEmbedding(embedding)]

    def _of(self, told: Token | PromptScores | Embedding) -> Entry | None:
        """Whose it is; None, and counted, when it is of no attempt that runs."""
        entry = self._entries.get(told.request)
        if entry is None:
            self.dropped.unknown += 1
        elif told.attempt != entry.attempt or entry.route is None:
            self.dropped.stale += 1
            return None
        return entry

    def progress(self, news: QueuePlace | Started, now: float) -> list[Instruction]:
        """The head reports on a request without a token: the wait for one begins anew."""
        entry = self._entries.get(news.request)
        if entry is None or news.attempt != entry.attempt:
            return []
        entry.since = now
        return [Progress(news)]

    def rejected(self, rejected: Rejected, now: float) -> list[Instruction]:
        """The head will not finish an attempt."""
        entry = self._entries.get(rejected.request)
        if entry is None or rejected.attempt != entry.attempt:
            return []
        if rejected.code == "epoch_failed":
            return self._leave(entry, now)
        del self._entries[entry.request]
        error = RequestError(
            rejected.status,
            rejected.code,
            rejected.message,
            retry_after_s=rejected.retry_after_s,
        )
        return [Fail(entry.request, error)]

    def messages_lost(self, epoch: int, now: float) -> list[Instruction]:
        """A link of this epoch lost messages: any of its tokens may be missing."""
        out: list[Instruction] = []
        for entry in self.entries():
            if entry.route is not None and entry.route.epoch == epoch:
                out += self._again(entry, now)
        return out

    def unsent(self, request: str, attempt: int, now: float) -> list[Instruction]:
        """The head did not take an attempt in time."""
        entry = self._entries.get(request)
        if entry is None or entry.attempt != attempt or entry.route is None:
            return []
        if entry.emitted:
            return self._leave(entry, now)
        del self._entries[request]
        head = entry.route.head
        message = f"{head}, the head of the pipeline, does not answer; try again in a moment"
        return [Fail(request, RequestError(503, "pipeline_busy", message, None, RETRY_AFTER_S))]

    def expire(self, now: float) -> list[Instruction]:
        """Fail what has waited past its deadline."""
        out: list[Instruction] = []
        for entry in self.entries():
            error = self._overdue(entry, now)
            if error is not None:
                out += [*self.close(entry.request), Fail(entry.request, error)]
        return out

    def fail_all(self, error: RequestError) -> list[Instruction]:
        """End every request, such as when the gateway itself stops."""
        out: list[Instruction] = []
        for entry in self.entries():
            out += [*self.close(entry.request), Fail(entry.request, error)]
        return out

    def _overdue(self, entry: Entry, now: float) -> RequestError | None:
        limits = self._limits
        if entry.route is None:
            if now - entry.since <= limits.recovery_s:
                return None
            return RequestError(
                503,
                "pipeline_lost",
                f"the pipeline broke and did not come back within {limits.recovery_s:g} s "
                "(POMONA_GATEWAY_RECOVERY_DEADLINE_S)",
                retry_after_s=RETRY_AFTER_S,
            )
        if entry.emitted:
            if now - entry.since <= limits.token_s:
                return None
            return RequestError(
                504,
                "token_timeout",
                f"no token came for {limits.token_s:g} s (POMONA_GATEWAY_TOKEN_DEADLINE_S)",
            )
        if now - entry.opened <= limits.first_token_s:
            return None
        return RequestError(
            504,
            "first_token_timeout",
            f"no token came within {limits.first_token_s:g} s of the request "
            "(POMONA_GATEWAY_FIRST_TOKEN_DEADLINE_S)",
        )

    def _again(self, entry: Entry, now: float) -> list[Instruction]:
        """The attempt lost tokens but its route lives: cancel it there, then try once more."""
        route = entry.route
        out: list[Instruction] = []
        if route is not None:
            out.append(SendCancel(route, entry.request, entry.attempt))
        out += self._leave(entry, now)
        entry.left = None
        if entry.request in self._entries:
            out += self._resend(entry, route, now)
        return out

    def _leave(self, entry: Entry, now: float) -> list[Instruction]:
        """The current attempt is over; wait for a route, unless too many were tried."""
        if entry.route is not None:
            entry.left = entry.route
            entry.route = None
            entry.since = now
            entry.attempt += 1
        if entry.attempt < self._limits.max_attempts:
            return []
        del self._entries[entry.request]
        message = (
            f"the request was tried in {entry.attempt} epochs and the pipeline failed in each; "
            "see the stage workers' logs"
        )
        return [
            Fail(entry.request, RequestError(503, "pipeline_failed", message, None, RETRY_AFTER_S))
        ]

    def _resend(self, entry: Entry, route: Route | None, now: float) -> list[Instruction]:
        left = entry.left
        if route is None or (left and route == left and route.endpoint == left.endpoint):
            return []
        entry.since = now
        return [self._send(entry, route)]

    def _send(self, entry: Entry, route: Route) -> Send:
        entry.route = route
        return Send(
            route=route,
            request=entry.request,
            attempt=entry.attempt,
            ids=entry.prompt + array("i", entry.emitted),
            emitted=len(entry.emitted),
            scored=entry.scored,
            sampling=entry.sampling,
            share=entry.share,
            priority=entry.priority,
            queue_share=entry.queue_share,
        )


def opened(
    request: str,
    model: str,
    prompt: Iterable[int],
    sampling: Sampling,
    now: float,
    share: str = "",
    priority: int = 0,
    queue_share: float = 1.0,
) -> Entry:
    """A new entry for :meth:`Journal.open`."""
    ids = prompt if isinstance(prompt, array) else array("i", prompt)
    return Entry(request, model, ids, sampling, share, priority, now, now, queue_share)
