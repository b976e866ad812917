"""Messages of which the first part has come: read and checked, so that little is left to do when
the rest comes."""

from __future__ import annotations

from dataclasses import dataclass

from pomona.errors import ProtocolError
from pomona.messages.codec import Message, MessageRest, message_name

MOST = 64
"""Links of which a message may be awaited; the oldest of more is given up."""


@dataclass(frozen=True, slots=True)
class PartialMessage:
    """A message that lacks its last buffers."""

    name: bytes
    message: Message


class PartialMessages:
    """At most one a link."""

    def __init__(self) -> None:
        self._by_link: dict[bytes, PartialMessage] = {}

    def add(self, message: Message) -> None:
        """A link that begins a message will not complete the one before."""
        name = message_name(message.envelope)
        link = _link(name)
        if link not in self._by_link and len(self._by_link) == MOST:
            del self._by_link[next(iter(self._by_link))]
        self._by_link[link] = PartialMessage(name, message)

    def take(self, rest: MessageRest) -> Message:
        """What ``rest`` completes. Raises ProtocolError when it is not awaited."""
        awaited = self._by_link.pop(_link(rest.name), None)
        if awaited is None or awaited.name != rest.name:
            raise ProtocolError("the rest of a message of which the beginning has not come")
        return awaited.message


def _link(name: bytes) -> bytes:
    return name.rpartition(b"/")[0]
