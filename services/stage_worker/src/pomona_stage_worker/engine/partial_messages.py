"""First parts of messages whose rest is still to come.

A first part is decoded and checked on arrival, so that little work is left for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from pomona.errors import ProtocolError
from pomona.messages.codec import Message, MessageRest, message_name

MAX_LINKS = 64
"""Links with a pending first part. With another one, the oldest is dropped."""


@dataclass(frozen=True, slots=True)
class PartialMessage:
    """A message without its last buffers."""

    name: bytes
    message: Message


class PartialMessages:
    """Holds at most one first part for each link."""

    def __init__(self) -> None:
        self._by_link: dict[bytes, PartialMessage] = {}

    def add(self, message: Message) -> None:
        """Adds a first part. An earlier one of the same link stays incomplete and is dropped."""
        name = message_name(message.envelope)
        link = _link(name)
        if link not in self._by_link and len(self._by_link) == MAX_LINKS:
            del self._by_link[next(iter(self._by_link))]
        self._by_link[link] = PartialMessage(name, message)

    def take(self, rest: MessageRest) -> Message:
        """Removes and returns the first part that ``rest`` completes.

        Raises ProtocolError when there is none.
        """
        first = self._by_link.pop(_link(rest.name), None)
        if first is None or first.name != rest.name:
            raise ProtocolError("received the second part of a message without its first part")
        return first.message


def _link(name: bytes) -> bytes:
    return name.rpartition(b"/")[0]
