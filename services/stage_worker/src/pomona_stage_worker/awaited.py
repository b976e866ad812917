"""Messages of which the first part has come: read, so that the rest finds all prepared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pomona.codec import Buffer
from pomona.errors import ProtocolError

MOST = 64
"""Links of which a message may be awaited; the oldest of more is given up."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """Attributes: complete: to be called with the last buffers; None when nobody wants them."""

    name: bytes
    epoch: int
    lane: int | None
    complete: Callable[[Sequence[Buffer]], None] | None


class AwaitedMessages:
    """At most one a link."""

    def __init__(self) -> None:
        self._by_link: dict[bytes, Awaited] = {}

    def add(self, awaited: Awaited) -> None:
        """A link that begins a message will not complete the one before."""
        link = _link(awaited.name)
        if link not in self._by_link and len(self._by_link) == MOST:
            del self._by_link[next(iter(self._by_link))]
        self._by_link[link] = awaited

    def take(self, name: bytes) -> Awaited:
        """Raises ProtocolError when no message of this name is awaited."""
        awaited = self._by_link.pop(_link(name), None)
        if awaited is None or awaited.name != name:
            raise ProtocolError("the rest of a message of which the beginning has not come")
        return awaited


def _link(name: bytes) -> bytes:
    return name.rpartition(b"/")[0]
