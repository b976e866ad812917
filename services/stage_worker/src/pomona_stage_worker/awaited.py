"""Steps of which the first part has come: read and checked, so that little is left to do when
the rest comes."""

from __future__ import annotations

from dataclasses import dataclass

from pomona.codec import Message, message_name
from pomona.errors import ProtocolError
from pomona.messages.data import Step

MOST = 64
"""Links of which a step may be awaited; the oldest of more is given up."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """A step, and the message that lacks its last buffers."""

    step: Step
    message: Message
    name: bytes


class AwaitedSteps:
    """At most one a link."""

    def __init__(self) -> None:
        self._by_link: dict[bytes, Awaited] = {}

    def add(self, step: Step, message: Message) -> None:
        """A link that begins a message will not complete the one before."""
        name = message_name(message.envelope)
        link = _link(name)
        if link not in self._by_link and len(self._by_link) == MOST:
            del self._by_link[next(iter(self._by_link))]
        self._by_link[link] = Awaited(step, message, name)

    def take(self, name: bytes) -> Awaited:
        """Raises ProtocolError when no message of this name is awaited."""
        awaited = self._by_link.pop(_link(name), None)
        if awaited is None or awaited.name != name:
            raise ProtocolError("the rest of a message of which the beginning has not come")
        return awaited


def _link(name: bytes) -> bytes:
    return name.rpartition(b"/")[0]
