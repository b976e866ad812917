"""The gateway's ends of the data plane, each driven by one plain thread.

Tokens arrive on one :class:`Pull`, whose thread hands whole batches to the event loop.
Every head has a :class:`HeadLink`: a queue and the thread that owns its :class:`Push`, so
that a head which takes no messages delays nobody but its own requests.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pomona.errors import LinkError, ProtocolError
from pomona.messages.codec import Buffer, Message
from pomona.messages.pipeline import Cancel, Submit, Tensor
from pomona.transport import Identity, LinkOrder, Pull, Push

log = logging.getLogger(__name__)

RECEIVE_TIMEOUT_S = 1.0
MAX_BATCH = 256
JOIN_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages that came together.

    Attributes:
        lost_epochs: epochs whose links lost messages before these.
        refused: frames that were no message for this cluster.
    """

    messages: tuple[Message, ...]
    lost_epochs: frozenset[int]
    refused: int


class TokenReceiver:
    """Reads the gateway's data socket; ``heard`` is called on the event loop."""

    def __init__(self, host: str, port: int, cluster: str, heard: Callable[[Batch], None]) -> None:
        self._pull = Pull(host, port, "POMONA_GATEWAY_DATA_PORT")
        self.endpoint = self._pull.endpoint
        self._cluster = cluster
        self._heard = heard
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
                self._loop.call_soon_threadsafe(self._heard, batch)
        self._pull.close()

    def _receive(self, order: LinkOrder) -> Batch | None:
        messages: list[Message] = []
        lost: set[int] = set()
        refused = 0
        while len(messages) < MAX_BATCH:
            try:
                message = self._pull.receive(0 if messages or refused else RECEIVE_TIMEOUT_S)
            except ProtocolError as error:
                log.warning("a message was refused", extra={"reason": str(error)})
                refused += 1
                continue
            if message is None:
                break
            envelope = message.envelope
            if envelope.cluster != self._cluster:
                refused += 1
                continue
            if order.gap(envelope) is not None:
                lost.add(envelope.epoch)
            messages.append(message)
        if not messages and not refused:
            return None
        return Batch(tuple(messages), frozenset(lost), refused)

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
    """The link to one head. ``unsent`` is called on the event loop for a message that the
    head did not take before the deadline."""

    def __init__(
        self,
        identity: Identity,
        endpoint: str,
        deadline_s: float,
        unsent: Callable[[Submit | Cancel], None],
    ) -> None:
        self._identity = identity
        self._endpoint = endpoint
        self._deadline_s = deadline_s
        self._unsent = unsent
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
        """Send in the order of the calls, without waiting."""
        self._queue.put(_Outgoing(body, epoch, tensors, buffers))

    def _run(self) -> None:
        try:
            push = Push(self._identity, self._endpoint, self._deadline_s)
        except LinkError as error:
            log.error("a head cannot be reached", extra={"reason": str(error)})
            push = None
        # Once the head let a deadline pass, the messages behind do not wait for another.
        patient = True
        while (outgoing := self._queue.get()) is not None:
            sent = False
            if push is not None:
                try:
                    push.send(
                        outgoing.body,
                        outgoing.epoch,
                        outgoing.tensors,
                        outgoing.buffers,
                        wait=patient,
                    )
                    sent = True
                except LinkError as error:
                    log.warning("a head takes no messages", extra={"reason": str(error)})
            patient = sent or self._queue.empty()
            if not sent:
                self._loop.call_soon_threadsafe(self._unsent, outgoing.body)
        if push is not None:
            push.close()

    def stop(self) -> None:
        """Send what is queued, then end. :meth:`join` waits for that."""
        self._queue.put(None)

    async def join(self) -> None:
        await asyncio.to_thread(self._thread.join, JOIN_TIMEOUT_S)
