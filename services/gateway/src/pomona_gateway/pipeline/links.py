"""The gateway's ends of the data plane, each driven by a thread of its own.

Tokens arrive on one :class:`Pull`, whose thread passes whole batches to the event loop.
Every head has a :class:`HeadLink`: a queue and the thread that owns its :class:`Push`. A head
that takes no messages therefore delays only its own requests.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pomona.addresses import at_node
from pomona.errors import LinkError, ProtocolError
from pomona.messages.codec import Buffer, Message
from pomona.messages.pipeline import Cancel, Submit, Tensor
from pomona.transport import Identity, LinkOrder, Pull, Push
from pomona_gateway.pipeline.router import Route

log = logging.getLogger(__name__)

RECEIVE_TIMEOUT_S = 1.0
MAX_BATCH = 256
"""Maximum number of messages in a batch."""
JOIN_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages that arrived together.

    Attributes:
        lost_epochs: epochs whose links lost messages before this batch.
        invalid: number of frames that are not a valid message of this cluster.
    """

    messages: tuple[Message, ...]
    lost_epochs: frozenset[int]
    invalid: int


class TokenReceiver:
    """Reads the gateway's data socket in a thread.

    Args:
        on_batch: called on the event loop with every batch.
    """

    def __init__(
        self, host: str, port: int, cluster: str, on_batch: Callable[[Batch], None]
    ) -> None:
        self._pull = Pull(host, port, "POMONA_GATEWAY_DATA_PORT")
        self.endpoint = self._pull.endpoint
        self._cluster = cluster
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._wake = self._pull.waker()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tokens", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        order = LinkOrder()
        while not self._closing.is_set():
            batch = self._receive(order)
            if batch is not None:
                self._loop.call_soon_threadsafe(self._on_batch, batch)
        self._pull.close()

    def _receive(self, order: LinkOrder) -> Batch | None:
        messages: list[Message] = []
        lost: set[int] = set()
        invalid = 0
        while len(messages) < MAX_BATCH:
            try:
                message = self._pull.receive(0 if messages or invalid else RECEIVE_TIMEOUT_S)
            except ProtocolError as error:
                log.warning("invalid message dropped", extra={"reason": str(error)})
                invalid += 1
                continue
            if message is None:
                break
            envelope = message.envelope
            if envelope.cluster != self._cluster:
                invalid += 1
                continue
            if order.gap(envelope) is not None:
                lost.add(envelope.epoch)
            messages.append(message)
        if not messages and not invalid:
            return None
        return Batch(tuple(messages), frozenset(lost), invalid)

    async def close(self) -> None:
        self._closing.set()
        self._wake()
        await asyncio.to_thread(self._thread.join, JOIN_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class _Outgoing:
    body: Submit | Cancel
    epoch: int
    tensors: tuple[Tensor, ...]
    buffers: Sequence[Buffer]


class HeadLink:
    """The link to one head.

    Args:
        on_unsent: called on the event loop with every message that the head did not take
            within ``deadline_s`` seconds.
    """

    def __init__(
        self,
        identity: Identity,
        endpoint: str,
        deadline_s: float,
        on_unsent: Callable[[Submit | Cancel], None],
    ) -> None:
        self._identity = identity
        self._endpoint = endpoint
        self._deadline_s = deadline_s
        self._on_unsent = on_unsent
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Outgoing | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"to {endpoint}", daemon=True)
        self._thread.start()

    def send(
        self,
        body: Submit | Cancel,
        epoch: int,
        tensors: tuple[Tensor, ...] = (),
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """Queues a message without waiting. Messages keep their order."""
        self._queue.put(_Outgoing(body, epoch, tensors, buffers))

    def _run(self) -> None:
        try:
            push = Push(self._identity, self._endpoint, self._deadline_s)
        except LinkError as error:
            log.error("cannot connect to a head", extra={"reason": str(error)})
            push = None
        # After one missed deadline, the messages queued behind it do not wait again.
        wait = True
        while (outgoing := self._queue.get()) is not None:
            sent = False
            if push is not None:
                try:
                    push.send(
                        outgoing.body,
                        outgoing.epoch,
                        outgoing.tensors,
                        outgoing.buffers,
                        wait=wait,
                    )
                    sent = True
                except LinkError as error:
                    log.warning("cannot send to a head", extra={"reason": str(error)})
            wait = sent or self._queue.empty()
            if not sent:
                self._loop.call_soon_threadsafe(self._on_unsent, outgoing.body)
        if push is not None:
            push.close()

    def stop(self) -> None:
        """Ends the thread after the queued messages. :meth:`join` waits for it."""
        self._queue.put(None)

    async def join(self) -> None:
        await asyncio.to_thread(self._thread.join, JOIN_TIMEOUT_S)


class HeadLinks:
    """Links to the heads of all routes, opened at first use."""

    def __init__(
        self,
        identity: Identity,
        deadline_s: float,
        on_unsent: Callable[[Submit | Cancel], None],
    ) -> None:
        self._identity = identity
        self._deadline_s = deadline_s
        self._on_unsent = on_unsent
        self._links: dict[tuple[str, str], HeadLink] = {}
        self._stopping: list[HeadLink] = []

    def send(
        self,
        route: Route,
        body: Submit | Cancel,
        tensors: tuple[Tensor, ...] = (),
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """Queues a message to the head of a route without waiting."""
        # A restarted head expects link sequence numbers from the start, so it gets a new link.
        key = (route.endpoint, route.boot)
        link = self._links.get(key)
        if link is None:
            endpoint = at_node(route.endpoint, route.node)
            link = HeadLink(self._identity, endpoint, self._deadline_s, self._on_unsent)
            self._links[key] = link
        link.send(body, route.epoch, tensors, buffers)

    def retain(self, routes: Iterable[Route]) -> None:
        """Stops the links to heads that have no route any more."""
        used = {(route.endpoint, route.boot) for route in routes}
        for key in [x for x in self._links if x not in used]:
            link = self._links.pop(key)
            link.stop()
            self._stopping.append(link)

    async def close(self) -> None:
        """Sends the queued messages and ends every thread."""
        for link in self._links.values():
            link.stop()
        for link in [*self._links.values(), *self._stopping]:
            await link.join()
