"""Runs sequences on the pipelines: token ids in, events out.

A token takes these steps from the tail to the HTTP handler:

1. :class:`TokenReceiver`, a thread, reads a batch of messages and calls the event loop once.
2. :class:`PipelineClient` asks the journal, which drops stale and duplicate tokens.
3. The client puts the token into the :class:`Inbox` of its request. There the event loop's
   callback ends and the handler's own task goes on, so that a slow client delays no other.
4. ``GenerationStream.receive`` takes it out and decodes it into text.

The client carries out the journal's instructions and lives on the event loop; only links have
threads.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pomona.errors import ProtocolError, RequestError
from pomona.messages import codec
from pomona.messages.codec import Message
from pomona.messages.control import RequestProgress
from pomona.messages.pipeline import (
    Cancel,
    Embedded,
    Queued,
    QueuePlace,
    Rejected,
    Scored,
    Started,
    Submit,
    Tensor,
    Token,
    Tokens,
)
from pomona.transport import Identity
from pomona_gateway.metrics import Metrics, Timing
from pomona_gateway.pipeline.inbox import Event, Inbox
from pomona_gateway.pipeline.instructions import (
    Deliver,
    Fail,
    Instruction,
    Send,
    SendCancel,
    SequenceRequest,
)
from pomona_gateway.pipeline.journal import DropReason, Journal, Pauses
from pomona_gateway.pipeline.links import Batch, HeadLinks, TokenReceiver
from pomona_gateway.pipeline.prompt_results import parse_embedding, parse_prompt_logprobs
from pomona_gateway.pipeline.recovery import RecoveryLimits
from pomona_gateway.pipeline.router import RouteTable
from pomona_gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

EXPIRE_INTERVAL_S = 0.1
RETRY_AFTER_S = 5


@dataclass(slots=True)
class RunningSequence:
    """One submitted sequence.

    Attributes:
        index: number of the sequence among those of its inbox.
        received: tokens of the reply so far.
        cached: prompt tokens found in the prefix cache.
        guesses: right and wrong guesses of each attempt.
    """

    request: str
    sequence: SequenceRequest
    inbox: Inbox
    index: int
    timing: Timing
    received: int = 0
    cached: int = 0
    guesses: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])


class PipelineClient:
    """Submits sequences to the pipelines and delivers their events.

    Attributes:
        progress: number of tokens and prompt results delivered; the beacon states it.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        identity: Identity,
        routes: RouteTable,
        metrics: Metrics,
        on_token: Callable[[str], None] = lambda model: None,
    ) -> None:
        """Args: on_token: called with the model of every token that arrives."""
        self.progress = 0
        self._settings = settings
        self._routes = routes
        self._metrics = metrics
        self._on_token = on_token
        self._journal = Journal(
            RecoveryLimits(
                first_token_s=settings.first_token_deadline_s,
                token_s=settings.token_deadline_s,
                recovery_s=settings.recovery_deadline_s,
                max_attempts=settings.max_attempts,
            )
        )
        self._served: set[str] = set()
        self._lost_at: dict[str, float] = {}
        self._running: dict[str, RunningSequence] = {}
        self._links = HeadLinks(identity, settings.send_deadline_s, self._on_unsent)
        self._receiver = TokenReceiver(
            settings.data_host, settings.data_port, settings.cluster, self._on_batch
        )
        self._expirer = asyncio.create_task(self._expire_periodically())

    @property
    def endpoint(self) -> str:
        """Endpoint to which tails send tokens."""
        return self._receiver.endpoint

    @property
    def running(self) -> int:
        """Number of sequences in the journal."""
        return len(self._journal)

    def oldest(self) -> tuple[RequestProgress, ...]:
        """Returns the progress of the sequences that have run longest."""
        return self._journal.oldest(time.monotonic())

    @property
    def paused(self) -> int:
        """Number of sequences that wait because their pipeline failed."""
        return self._journal.paused

    @property
    def pauses(self) -> Pauses:
        """Sequences that paused and went on."""
        return self._journal.pauses

    def running_models(self) -> set[str]:
        """Returns the models of the sequences in the journal."""
        return self._journal.models()

    def on_routes_changed(self) -> None:
        """Moves running requests to the current routes and stops links to former heads."""
        self._metrics.set_cache_config(self._routes.pipelines.values())
        now, routes = time.monotonic(), self._routes.routes
        for model in self._served - routes.keys():
            self._lost_at[model] = now
        self._served = set(routes)
        self._execute(self._journal.on_routes(routes, now))
        self._links.retain(routes.values())

    def submit(
        self,
        sequence: SequenceRequest,
        inbox: Inbox,
        index: int = 0,
        emitted: Sequence[Token] = (),
    ) -> RunningSequence:
        """Starts a sequence, after the tokens that were ``emitted`` before.

        If the model's pipeline was lost a moment ago, the sequence waits for it as running ones do.

        Raises:
            RequestError: the gateway is full, or the model has no route.
        """
        request = secrets.token_hex(12)
        now = time.monotonic()
        running = RunningSequence(request, sequence, inbox, index, Timing(now, 0.0, 0.0, 0.0))
        inbox.sequences += 1
        if emitted and emitted[-1].finish is not None:
            return running
        if self.running >= self._settings.max_running:
            raise RequestError(
                429,
                "too_many_requests",
                f"{self.running} replies are running, the most that "
                "POMONA_GATEWAY_MAX_RUNNING allows; try again in a moment",
                retry_after_s=RETRY_AFTER_S,
            )
        route = self._routes.route(sequence.model)
        if route is None and not self._is_recovering(sequence.model, now):
            raise RequestError(
                503,
                "model_not_ready",
                f"{sequence.model} cannot answer yet: {self._routes.reason(sequence.model)}",
                retry_after_s=RETRY_AFTER_S,
            )
        running.received = len(emitted)
        self._running[request] = running
        ids = [token.token for token in emitted]
        self._execute(self._journal.submit(request, sequence, route, now, ids))
        return running

    def _is_recovering(self, model: str, now: float) -> bool:
        """Returns whether the pipeline of a model was lost, and running requests wait for it."""
        lost_at = self._lost_at.get(model)
        return lost_at is not None and now - lost_at <= self._settings.recovery_deadline_s

    def cancel(self, running: RunningSequence) -> None:
        """Cancels an unfinished sequence and frees its KV cache."""
        self._running.pop(running.request, None)
        self._execute(self._journal.cancel(running.request))

    def fail_all(self, error: RequestError) -> None:
        """Fails every running sequence."""
        self._execute(self._journal.fail_all(error))

    async def close(self) -> None:
        """Cancels running sequences and ends the threads."""
        self.fail_all(RequestError(503, "shutting_down", "the gateway stopped"))
        self._expirer.cancel()
        await asyncio.gather(self._expirer, return_exceptions=True)
        await self._links.close()
        await self._receiver.close()

    async def _expire_periodically(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_INTERVAL_S)
            self._execute(self._journal.expire(time.monotonic()))
            self._update_gauges()

    def _update_gauges(self) -> None:
        waiting: dict[str, int] = dict.fromkeys(self._routes.pipelines, 0)
        running = dict(waiting)
        for sequence in self._running.values():
            started = sequence.timing.started or sequence.received
            counts = running if started else waiting
            model = sequence.sequence.model
            counts[model] = counts.get(model, 0) + 1
        for model in waiting:
            self._metrics.waiting.labels(model).set(waiting[model])
            self._metrics.running.labels(model).set(running.get(model, 0))
            self._metrics.cache_use.labels(model).set(self._routes.cache_use(model))

    def _on_batch(self, batch: Batch) -> None:
        now = time.monotonic()
        dropped = self._journal.dropped
        dropped[DropReason.INVALID] += batch.invalid
        for epoch in batch.lost_epochs:
            dropped[DropReason.LINK_GAP] += 1
            self._execute(self._journal.on_messages_lost(epoch, now))
        for message in batch.messages:
            try:
                self._execute(self._accept(message, now))
            except ProtocolError as error:
                log.warning("invalid message dropped", extra={"reason": str(error)})
                dropped[DropReason.INVALID] += 1
        for reason, count in dropped.items():
            if count:
                self._metrics.dropped.labels(reason).inc(count)
        dropped.clear()

    def _accept(self, message: Message, now: float) -> Iterator[Instruction]:
        """Passes a message to the journal. Each instruction precedes the next token."""
        journal = self._journal
        match message.envelope.body:
            case Tokens(tokens=tokens):
                for token in tokens:
                    yield from journal.on_token(token, now)
            case Scored() as scored:
                yield from journal.on_prompt_logprobs(parse_prompt_logprobs(scored, message), now)
            case Embedded() as embedded:
                yield from journal.on_embedding(parse_embedding(embedded, message), now)
            case Started() as started:
                yield from journal.on_progress(started, now)
            case Queued(places=places):
                for place in places:
                    yield from journal.on_progress(place, now)
            case Rejected() as rejected:
                yield from journal.on_rejected(rejected, now)
            case _:
                journal.dropped[DropReason.KIND] += 1

    def _on_unsent(self, body: Submit | Cancel) -> None:
        if isinstance(body, Submit):
            now = time.monotonic()
            self._execute(self._journal.on_unsent(body.request, body.attempt, now))

    def _execute(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Deliver(event=event):
                    self._deliver(event)
                case Send():
                    self._send(instruction)
                case SendCancel(route=route, request=request, attempt=attempt):
                    self._links.send(route, Cancel(request, attempt))
                case Fail(request=request, error=error):
                    running = self._running.pop(request, None)
                    if running is not None:
                        running.inbox.fail(error)

    def _send(self, send: Send) -> None:
        route, queue = send.route, send.sequence.queue
        if send.attempt:
            self._metrics.resubmitted.labels(route.model).inc()
            log.info(
                "request resubmitted in another epoch",
                extra={"request": send.request, "epoch": route.epoch, "attempt": send.attempt},
            )
        submit = Submit(
            request=send.request,
            attempt=send.attempt,
            model=route.model,
            reply=self._routes.reply_endpoint(route, self.endpoint),
            sampling=send.sequence.sampling,
            emitted=send.emitted,
            scored=send.scored,
            share=queue.tenant,
            priority=queue.priority,
            deadline_s=self._settings.queue_deadline_s,
            queue_share=queue.queue_share,
            speculative=send.sequence.speculative,
        )
        try:
            codec.check_submit(submit)
        except ProtocolError as error:
            code, text = "invalid_request", f"stage workers do not take this request: {error}"
            rejected = Rejected(send.request, send.attempt, 400, code, text)
            self._execute(self._journal.on_rejected(rejected, time.monotonic()))
            return
        arrays = [send.ids]
        if send.sequence.prediction:
            arrays.append(send.sequence.prediction)
        tensors = tuple(Tensor("int32", (len(ids),)) for ids in arrays)
        self._links.send(route, submit, tensors, tuple(ids.tobytes() for ids in arrays))

    def _deliver(self, event: Event) -> None:
        running = self._running.get(event.request)
        if running is None:
            return
        match event:
            case Token():
                self._deliver_token(running, event)
                return
            case Started():
                if not running.timing.started:
                    running.timing = replace(running.timing, started=time.monotonic())
                    if not running.received:
                        running.cached = event.cached
            case QueuePlace():
                pass
            case _:
                self.progress += 1
        running.inbox.put(running.index, event)

    def _deliver_token(self, running: RunningSequence, token: Token) -> None:
        now = time.monotonic()
        model = running.sequence.model
        self.progress += 1
        self._on_token(model)
        if running.sequence.measured:
            self._metrics.observe_token(model, running.received, running.timing, now)
            if running.received == 0:
                self._metrics.observe_prompt(model, len(running.sequence.prompt), running.cached)
        first = running.timing.first or now
        running.timing = replace(running.timing, first=first, last=now)
        running.received += 1
        if token.accepted or token.rejected:
            running.guesses[token.attempt] = token.accepted, token.rejected
        if token.finish is not None:
            del self._running[token.request]
        buffered = running.inbox.put(running.index, token)
        allowed = self._settings.stream_buffer_tokens * running.inbox.sequences
        if buffered > allowed and token.finish is None:
            self.cancel(running)
            message = "the client reads slower than the model writes; its reply was cancelled"
            running.inbox.fail(RequestError(408, "client_too_slow", message))
