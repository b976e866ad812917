"""Links from a stage to gateways, which never make the pipeline wait."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prometheus_client import Counter

from pomona.errors import PomonaError
from pomona.messages.codec import Buffer
from pomona.messages.pipeline import Body, Tensor
from pomona.transport import Identity, Push

log = logging.getLogger(__name__)

MAX_LINKS = 64
LINGER_S = 1.0
"""Time that messages have to leave when a link is closed, seconds."""

LOST_MESSAGES = Counter(
    "pomona_stage_lost_messages", "Messages that a gateway could not take", ["model_name"]
)


class GatewayLinks:
    """Opens a link to each gateway when it is first needed.

    Args:
        model: model name, for metrics.
    """

    def __init__(self, identity: Identity, model: str, epoch: int) -> None:
        self._identity = identity
        self._model = model
        self._epoch = epoch
        self._links: dict[str, Push] = {}

    def send(
        self,
        reply: str,
        body: Body,
        tensors: tuple[Tensor, ...] = (),
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """Sends a message to the gateway at ``reply``, or drops and counts it."""
        link = self._links.get(reply)
        try:
            if link is None:
                link = self._open(reply)
            link.send(body, self._epoch, tensors, buffers, wait=False)
        except PomonaError as error:
            LOST_MESSAGES.labels(self._model).inc()
            log.warning("cannot send to gateway %s: %s", reply, error)

    def close(self) -> None:
        for link in self._links.values():
            link.close(linger_s=LINGER_S)

    def _open(self, reply: str) -> Push:
        if len(self._links) >= MAX_LINKS:
            self._links.pop(next(iter(self._links))).close()
        link = self._links[reply] = Push(self._identity, reply, queue_when_disconnected=True)
        return link
