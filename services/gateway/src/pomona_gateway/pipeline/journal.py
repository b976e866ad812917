"""The journal of running requests. Pure: events in, instructions out, time is a parameter.

The journal holds the prompt of each request, the ids emitted so far and the current attempt. It
accepts a token, or log-probabilities of the prompt, only for the current attempt and the next
index. :mod:`~pomona_gateway.pipeline.recovery` decides when a request is submitted again; the
client then sees a pause.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from pomona.errors import RequestError
from pomona.messages.control import RequestProgress
from pomona.messages.limits import MAX_REPORTED_REQUESTS
from pomona.messages.pipeline import QueuePlace, Rejected, Started, Token
from pomona_gateway.pipeline.instructions import (
    Deliver,
    Fail,
    Instruction,
    Send,
    SendCancel,
    SequenceRequest,
)
from pomona_gateway.pipeline.prompt_results import Embedding, PromptLogprobs
from pomona_gateway.pipeline.recovery import Attempts, RecoveryLimits
from pomona_gateway.pipeline.router import Route


class DropReason(StrEnum):
    """Reasons to drop a message from the data plane; labels of a metric."""

    UNKNOWN = "unknown"
    """The request is not in the journal."""
    STALE = "stale"
    """Another attempt of the request runs."""
    DUPLICATE = "duplicate"
    """The index was received before."""
    GAP = "gap"
    """An earlier index is missing."""
    INVALID = "invalid"
    """The message cannot be decoded, or is of another cluster."""
    LINK_GAP = "link_gap"
    """The link lost messages before it."""
    KIND = "kind"
    """The gateway does not take messages of this kind."""


@dataclass(slots=True)
class Entry:
    """A request, the results that have arrived, and its attempts."""

    request: str
    sequence: SequenceRequest
    attempts: Attempts
    emitted: list[int] = field(default_factory=list[int])
    prefilled: int = 0
    scored: int = 0
    embedded: bool = False
    paused_at: float | None = None

    @property
    def missing_logprobs(self) -> int:
        """Number of requested prompt log-probabilities that have not arrived."""
        if self.sequence.sampling.prompt_logprobs is None:
            return 0
        return len(self.sequence.prompt) - 1 - self.scored

    @property
    def missing_prompt_results(self) -> bool:
        """Log-probabilities or the embedding of the prompt have not arrived."""
        needs_embedding = self.sequence.sampling.embedding and not self.embedded
        return needs_embedding or self.missing_logprobs > 0


@dataclass(slots=True)
class Pauses:
    """Counts answers that paused and went on.

    Attributes:
        resumed: their number.
        longest_s: longest pause since no answer was paused, seconds.
    """

    resumed: int = 0
    longest_s: float = 0.0

    def begin(self, others: int) -> None:
        """Records a pause, beside ``others`` that last."""
        if not others:
            self.longest_s = 0.0

    def end(self, pause_s: float) -> None:
        """Records that an answer has gone on."""
        self.resumed += 1
        self.longest_s = max(self.longest_s, pause_s)


class Journal:
    """All running requests of one gateway.

    Attributes:
        dropped: messages dropped, by reason.
        pauses: answers that paused because their pipeline failed.
    """

    def __init__(self, limits: RecoveryLimits) -> None:
        self.dropped: Counter[DropReason] = Counter()
        self.pauses = Pauses()
        self._limits = limits
        self._entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def oldest(self, now: float) -> tuple[RequestProgress, ...]:
        """Returns the progress of the requests that have run longest, oldest first."""
        entries = islice(self._entries.values(), MAX_REPORTED_REQUESTS)
        return tuple(
            RequestProgress(
                entry.request,
                entry.sequence.model,
                round(now - entry.attempts.opened, 1),
                len(entry.sequence.prompt),
                min(entry.prefilled, len(entry.sequence.prompt)),
                len(entry.emitted),
            )
            for entry in entries
        )

    @property
    def paused(self) -> int:
        """Number of answers that wait because their pipeline failed."""
        return sum(entry.paused_at is not None for entry in self._entries.values())

    def models(self) -> set[str]:
        """Returns the models of the running requests."""
        return {entry.sequence.model for entry in self._entries.values()}

    def submit(
        self,
        request: str,
        sequence: SequenceRequest,
        route: Route | None,
        now: float,
        emitted: Sequence[int] = (),
    ) -> list[Instruction]:
        """Adds a request and starts its first attempt. Without a route it waits for one.

        Args:
            emitted: ids of the reply that a former gateway received.
        """
        entry = self._entries[request] = Entry(
            request, sequence, Attempts(now, now), emitted=list(emitted)
        )
        return [] if route is None else [self._send(entry, route, now)]

    def cancel(self, request: str) -> list[Instruction]:
        """Removes a request whose reply is no longer wanted."""
        entry = self._entries.pop(request, None)
        if entry is None or entry.attempts.route is None:
            return []
        return [SendCancel(entry.attempts.route, request, entry.attempts.number)]

    def on_routes(self, routes: Mapping[str, Route], now: float) -> list[Instruction]:
        """Ends attempts whose route is gone and resubmits requests that wait for one.

        A route that was withdrawn and comes back, in the same epoch, serves again: the pipeline
        is ready, and only the planner was not sure of it.

        Args:
            routes: all current routes, by model.
        """
        out: list[Instruction] = []
        for entry in list(self._entries.values()):
            route = routes.get(entry.sequence.model)
            attempts = entry.attempts
            if attempts.route is not None and attempts.route == route:
                attempts.route = route  # Its endpoint may have changed.
            elif attempts.route is not None:
                if route is None:  # The head may still run it, and may come back.
                    out.append(SendCancel(attempts.route, entry.request, attempts.number))
                out += self._end_attempt(entry, now)
            if route is None:
                attempts.allow_same_route()
            if entry.request in self._entries and attempts.route is None:
                out += self._resubmit(entry, route, now)
        return out

    def on_token(self, token: Token, now: float) -> list[Instruction]:
        """Accepts a token. A token with ``finish`` ends the request."""
        entry = self._current(token)
        if entry is None:
            return []
        if token.index < len(entry.emitted):
            self.dropped[DropReason.DUPLICATE] += 1
            return []
        if token.index > len(entry.emitted) or entry.missing_prompt_results:
            self.dropped[DropReason.GAP] += 1
            return self._retry(entry, now)
        entry.emitted.append(token.token)
        entry.attempts.progress(now)
        if entry.paused_at is not None:
            self.pauses.end(now - entry.paused_at)
            entry.paused_at = None
        if token.finish is not None:
            del self._entries[token.request]
        return [Deliver(token)]

    def on_prompt_logprobs(self, logprobs: PromptLogprobs, now: float) -> list[Instruction]:
        """Accepts log-probabilities of a prompt. They precede the first token."""
        entry = self._current(logprobs)
        if entry is None:
            return []
        if logprobs.index < entry.scored or len(logprobs.logprobs) > entry.missing_logprobs:
            self.dropped[DropReason.DUPLICATE] += 1
            return []
        if logprobs.index > entry.scored:
            self.dropped[DropReason.GAP] += 1
            return self._retry(entry, now)
        entry.scored += len(logprobs.logprobs)
        entry.attempts.progress(now)
        return [Deliver(logprobs)]

    def on_embedding(self, embedding: Embedding, now: float) -> list[Instruction]:
        """Accepts the embedding of a prompt. It precedes the token."""
        entry = self._current(embedding)
        if entry is None:
            return []
        if entry.embedded:
            self.dropped[DropReason.DUPLICATE] += 1
            return []
        entry.embedded = True
        entry.attempts.waiting_since = now
        return [Deliver(embedding)]

    def on_progress(self, progress: QueuePlace | Started, now: float) -> list[Instruction]:
        """Accepts the head's report on a prompt. It restarts the wait for a token."""
        entry = self._entries.get(progress.request)
        if entry is None or progress.attempt != entry.attempts.number:
            return []
        entry.attempts.waiting_since = now
        if isinstance(progress, Started):
            entry.prefilled = progress.prefilled
        return [Deliver(progress)]

    def on_rejected(self, rejected: Rejected, now: float) -> list[Instruction]:
        """Ends an attempt that the head gave up. Only ``epoch_failed`` allows another one."""
        entry = self._entries.get(rejected.request)
        if entry is None or rejected.attempt != entry.attempts.number:
            return []
        if rejected.code == "epoch_failed":
            return self._end_attempt(entry, now)
        error = RequestError(
            rejected.status, rejected.code, rejected.message, retry_after_s=rejected.retry_after_s
        )
        return [self._fail(entry, error)]

    def on_messages_lost(self, epoch: int, now: float) -> list[Instruction]:
        """Restarts every attempt of an epoch whose link lost messages."""
        out: list[Instruction] = []
        for entry in list(self._entries.values()):
            route = entry.attempts.route
            if route is not None and route.epoch == epoch:
                out += self._retry(entry, now)
        return out

    def on_unsent(self, request: str, attempt: int, now: float) -> list[Instruction]:
        """Ends an attempt that the head did not take before the send deadline.

        The head is being restarted, or is stopped and will be: the request waits.
        """
        entry = self._entries.get(request)
        route = entry.attempts.route if entry is not None else None
        if entry is None or route is None or attempt != entry.attempts.number:
            return []
        return self._end_attempt(entry, now)

    def expire(self, now: float) -> list[Instruction]:
        """Fails the requests that passed a deadline."""
        out: list[Instruction] = []
        for entry in list(self._entries.values()):
            error = entry.attempts.overdue(self._limits, bool(entry.emitted), now)
            if error is not None:
                out += [*self.cancel(entry.request), Fail(entry.request, error)]
        return out

    def fail_all(self, error: RequestError) -> list[Instruction]:
        """Fails every request."""
        out: list[Instruction] = []
        for request in list(self._entries):
            out += [*self.cancel(request), Fail(request, error)]
        return out

    def _current(self, event: Token | PromptLogprobs | Embedding) -> Entry | None:
        """Returns the entry of an event. Counts and drops events of other attempts."""
        entry = self._entries.get(event.request)
        if entry is None:
            self.dropped[DropReason.UNKNOWN] += 1
        elif not entry.attempts.is_current(event.attempt):
            self.dropped[DropReason.STALE] += 1
            return None
        return entry

    def _retry(self, entry: Entry, now: float) -> list[Instruction]:
        """Restarts an attempt that lost messages on the same route, which still works."""
        route = entry.attempts.route
        out: list[Instruction] = []
        if route is not None:
            out.append(SendCancel(route, entry.request, entry.attempts.number))
        out += self._end_attempt(entry, now)
        entry.attempts.allow_same_route()
        if entry.request in self._entries:
            out += self._resubmit(entry, route, now)
        return out

    def _end_attempt(self, entry: Entry, now: float) -> list[Instruction]:
        """Ends the current attempt. The request then waits for a route, or fails."""
        if entry.emitted and entry.paused_at is None and entry.attempts.route is not None:
            self.pauses.begin(self.paused)
            entry.paused_at = entry.attempts.waiting_since
        entry.attempts.end(now)
        entry.prefilled = 0
        error = entry.attempts.exhausted(self._limits)
        return [] if error is None else [self._fail(entry, error)]

    def _resubmit(self, entry: Entry, route: Route | None, now: float) -> list[Instruction]:
        if route is None or not entry.attempts.may_use(route):
            return []
        return [self._send(entry, route, now)]

    def _send(self, entry: Entry, route: Route, now: float) -> Send:
        entry.attempts.start(route, now)
        return Send(
            route=route,
            request=entry.request,
            attempt=entry.attempts.number,
            sequence=entry.sequence,
            ids=entry.sequence.prompt + array("i", entry.emitted),
            emitted=len(entry.emitted),
            scored=entry.scored,
        )

    def _fail(self, entry: Entry, error: RequestError) -> Fail:
        del self._entries[entry.request]
        return Fail(entry.request, error)
