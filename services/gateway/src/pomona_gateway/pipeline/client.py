"""The pipelines as the rest of the gateway sees them: ids in, a stream of tokens out.

The engine obeys the journal: it carries its instructions to the links, and the links'
messages to it. It lives on the event loop; only the links have threads.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from pomona.errors import ProtocolError, RequestError
from pomona.messages.codec import Message
from pomona.messages.control import Beacon
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
from pomona_gateway.pipeline.embedding import Embedding, read_embedding
from pomona_gateway.pipeline.inbox import Generation, Inbox, Running
from pomona_gateway.pipeline.journal import (
    Deliver,
    DeliverEmbedding,
    DeliverScores,
    Fail,
    Instruction,
    Journal,
    JournalLimits,
    Progress,
    Send,
    SendCancel,
    opened,
)
from pomona_gateway.pipeline.links import Batch, HeadLink, TokenReceiver
from pomona_gateway.pipeline.prompt_results import PromptScores, read_scores
from pomona_gateway.pipeline.router import Route, RouteTable
from pomona_gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 0.1
RETRY_AFTER_S = 5


class PipelineClient:
    """Runs sequences on the pipelines that the beacons tell of."""

    def __init__(
        self,
        settings: GatewaySettings,
        identity: Identity,
        metrics: Metrics,
        proved: Callable[[], None] = lambda: None,
    ) -> None:
        """Args: proved: called when the first token of an epoch came through."""
        self.table = RouteTable(settings.node)
        self.progress = 0
        self.proven: dict[str, Route] = {}
        self._settings = settings
        self._identity = identity
        self._metrics = metrics
        self._proved = proved
        self._journal = Journal(
            JournalLimits(
                first_token_s=settings.first_token_deadline_s,
                token_s=settings.token_deadline_s,
                recovery_s=settings.recovery_deadline_s,
                max_attempts=settings.max_attempts,
            )
        )
        self._running: dict[str, Running] = {}
        self._links: dict[tuple[str, str], HeadLink] = {}
        self._stopping: list[HeadLink] = []
        self._stopped: RequestError | None = None
        self._receiver = TokenReceiver(
            settings.data_host, settings.data_port, settings.cluster, self._heard
        )
        self._sweeper = asyncio.create_task(self._sweep())

    @property
    def endpoint(self) -> str:
        """Where the tails send tokens."""
        return self._receiver.endpoint

    @property
    def running(self) -> int:
        """Sequences in the journal."""
        return len(self._journal)

    def running_models(self) -> set[str]:
        """The models of the sequences in the journal."""
        return {entry.model for entry in self._journal.entries()}

    def proven_epochs(self) -> dict[str, int]:
        """For each model served now, the epoch in which a token came through."""
        return {
            model: route.epoch
            for model, route in self.table.routes.items()
            if self.proven.get(model) == route
        }

    def on_beacon(self, beacon: Beacon) -> bool:
        """Take in a beacon; requests follow their pipeline. True when a route changed."""
        if not self.table.on_beacon(beacon):
            return False
        self._metrics.caches(self.table.pipelines.values())
        routes = self.table.routes
        self._obey(self._journal.routed(routes, time.monotonic()))
        used = {(route.endpoint, route.boot) for route in routes.values()}
        for key in [x for x in self._links if x not in used]:
            link = self._links.pop(key)
            link.stop()
            self._stopping.append(link)
        return True

    def submit(self, generation: Generation, inbox: Inbox, index: int = 0) -> Running:
        """Begin a sequence. Raises RequestError when it cannot begin now."""
        if self._stopped is not None:
            raise self._stopped
        if self.running >= self._settings.max_running:
            raise RequestError(
                429,
                "too_many_requests",
                f"{self.running} replies are in the works, and "
                f"POMONA_GATEWAY_MAX_RUNNING allows no more; try again in a moment",
                retry_after_s=RETRY_AFTER_S,
            )
        route = self.table.route(generation.model)
        if route is None:
            raise RequestError(
                503,
                "model_not_ready",
                f"{generation.model} cannot answer yet: {self.table.reason(generation.model)}",
                retry_after_s=RETRY_AFTER_S,
            )
        request = secrets.token_hex(12)
        now = time.monotonic()
        running = Running(request, generation, inbox, index, Timing(now, 0.0, 0.0, 0.0))
        self._running[request] = running
        inbox.sequences += 1
        entry = opened(
            request,
            generation.model,
            generation.prompt,
            generation.sampling,
            now,
            generation.share,
            generation.priority,
            generation.queue_share,
        )
        self._obey(self._journal.open(entry, route))
        return running

    def abandon(self, running: Running) -> None:
        """Nobody wants the rest: the caches of an unfinished sequence are freed."""
        self._running.pop(running.request, None)
        self._obey(self._journal.close(running.request))

    def stop(self, error: RequestError) -> None:
        """Refuse new sequences with this error; those that run go on."""
        self._stopped = error

    def fail_all(self, error: RequestError) -> None:
        """End every sequence with an error."""
        self._obey(self._journal.fail_all(error))

    async def close(self) -> None:
        """Cancel what still runs, and end the threads."""
        self.fail_all(RequestError(503, "shutting_down", "the gateway stopped"))
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)
        for link in self._links.values():
            link.stop()
        for link in [*self._links.values(), *self._stopping]:
            await link.join()
        await self._receiver.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            self._obey(self._journal.expire(time.monotonic()))
            self._measure()

    def _measure(self) -> None:
        waiting: dict[str, int] = dict.fromkeys(self.table.pipelines, 0)
        running = dict(waiting)
        for sequence in self._running.values():
            begun = sequence.timing.started or sequence.received
            counts = running if begun else waiting
            model = sequence.generation.model
            counts[model] = counts.get(model, 0) + 1
        for model in waiting:
            self._metrics.waiting.labels(model).set(waiting[model])
            self._metrics.running.labels(model).set(running.get(model, 0))
            self._metrics.cache_use.labels(model).set(self.table.cache_use(model))

    def _heard(self, batch: Batch) -> None:
        now = time.monotonic()
        dropped = self._journal.dropped
        before = replace(dropped)
        if batch.refused:
            self._metrics.dropped.labels("invalid").inc(batch.refused)
        for epoch in batch.lost_epochs:
            self._metrics.dropped.labels("link_gap").inc()
            self._obey(self._journal.messages_lost(epoch, now))
        for message in batch.messages:
            match message.envelope.body:
                case Tokens(tokens=tokens):
                    for token in tokens:
                        self._obey(self._journal.token(token, now))
                case Scored() | Embedded() as of_prompt:
                    self._take_of_prompt(of_prompt, message, now)
                case Started() as started:
                    self._obey(self._journal.progress(started, now))
                case Queued(places=places):
                    for place in places:
                        self._obey(self._journal.progress(place, now))
                case Rejected() as rejected:
                    self._obey(self._journal.rejected(rejected, now))
                case _:
                    self._metrics.dropped.labels("kind").inc()
        for reason in ("unknown", "stale", "duplicate", "gap"):
            count = getattr(dropped, reason) - getattr(before, reason)
            if count:
                self._metrics.dropped.labels(reason).inc(count)

    def _take_of_prompt(self, body: Scored | Embedded, message: Message, now: float) -> None:
        try:
            if isinstance(body, Scored):
                out = self._journal.scored(read_scores(body, message), now)
            else:
                out = self._journal.embedded(read_embedding(body, message), now)
        except ProtocolError as error:
            log.warning("a message was refused", extra={"reason": str(error)})
            self._metrics.dropped.labels("invalid").inc()
            return
        self._obey(out)

    def _unsent(self, body: Submit | Cancel) -> None:
        if isinstance(body, Submit):
            now = time.monotonic()
            self._obey(self._journal.unsent(body.request, body.attempt, now))

    def _obey(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Deliver(token=token):
                    self._deliver(token)
                case DeliverScores(scores=told) | DeliverEmbedding(embedding=told):
                    self._deliver_of_prompt(told)
                case Progress(news=news):
                    self._report(news)
                case Send():
                    self._send(instruction)
                case SendCancel(route=route, request=request, attempt=attempt):
                    self._link(route).send(Cancel(request, attempt), route.epoch)
                case Fail(request=request, error=error):
                    running = self._running.pop(request, None)
                    if running is not None:
                        running.inbox.fail(error)

    def _link(self, route: Route) -> HeadLink:
        # A head that restarted counts the messages of a link anew.
        key = (route.endpoint, route.boot)
        link = self._links.get(key)
        if link is None:
            link = HeadLink(
                self._identity, route.endpoint, self._settings.send_deadline_s, self._unsent
            )
            self._links[key] = link
        return link

    def _send(self, send: Send) -> None:
        if send.attempt:
            self._metrics.resubmitted.labels(send.route.model).inc()
            log.info(
                "a request goes on in another epoch",
                extra={
                    "request": send.request,
                    "epoch": send.route.epoch,
                    "attempt": send.attempt,
                },
            )
        submit = Submit(
            request=send.request,
            attempt=send.attempt,
            model=send.route.model,
            reply=self.table.way_back(send.route, self.endpoint),
            sampling=send.sampling,
            emitted=send.emitted,
            scored=send.scored,
            share=send.share,
            priority=send.priority,
            deadline_s=self._settings.queue_deadline_s,
            queue_share=send.queue_share,
        )
        tensor = Tensor("int32", (len(send.ids),))
        self._link(send.route).send(submit, send.route.epoch, (tensor,), (send.ids.tobytes(),))

    def _deliver(self, token: Token) -> None:
        running = self._running.get(token.request)
        if running is None:
            return
        now = time.monotonic()
        model = running.generation.model
        self.progress += 1
        self._prove(model)
        if running.generation.measured:
            self._metrics.token(model, running.received, running.timing, now)
            if running.received == 0:
                self._metrics.prompt(model, len(running.generation.prompt), running.cached)
        first = running.timing.first or now
        running.timing = replace(running.timing, first=first, last=now)
        running.received += 1
        if token.finish is not None:
            del self._running[token.request]
        waiting = running.inbox.put(running.index, token)
        allowed = self._settings.stream_buffer_tokens * running.inbox.sequences
        if waiting > allowed and token.finish is None:
            self.abandon(running)
            message = "the client reads slower than the model writes; its reply was cancelled"
            running.inbox.fail(RequestError(408, "client_too_slow", message))

    def _deliver_of_prompt(self, told: PromptScores | Embedding) -> None:
        running = self._running.get(told.request)
        if running is not None:
            self.progress += 1
            running.inbox.put(running.index, told)

    def _report(self, news: QueuePlace | Started) -> None:
        running = self._running.get(news.request)
        if running is None:
            return
        if isinstance(news, Started) and not running.timing.started:
            running.timing = replace(running.timing, started=time.monotonic())
            running.cached = news.cached
        running.inbox.put(running.index, news)

    def _prove(self, model: str) -> None:
        route = self.table.route(model)
        if route is not None and self.proven.get(model) != route:
            self.proven[model] = route
            log.info("tokens come through", extra={"model": model, "epoch": route.epoch})
            self._proved()
