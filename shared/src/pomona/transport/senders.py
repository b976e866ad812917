"""Ties the sender that a data message names to the key whose connection brought it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pomona.errors import ProtocolError
from pomona.messages.codec import message_name
from pomona.messages.pipeline import Envelope
from pomona.trust import Roster, Trust

MAX_PARTIAL: Final = 1024
"""Messages whose second part is awaited."""


class Senders:
    """Refuses what a member says in the name of another. Not thread-safe.

    A service belongs to the node with whose name its own begins, as ``anna.planner`` belongs to
    ``anna``. A name that begins with that of no member is anyone's, like that of a benchmark.
    """

    def __init__(self, trust: Trust | None) -> None:
        self._trust = trust
        self._roster: Roster | None = None
        self._known: set[tuple[str, str]] = set()
        self._partial: OrderedDict[bytes, str] = OrderedDict()

    @property
    def are_checked(self) -> bool:
        return self._trust is not None

    def check(self, envelope: Envelope, node: str) -> None:
        """Raises ProtocolError when the node with this id may not use the name of the sender.

        Args:
            node: empty for a process of this user by a local socket, which is believed.
        """
        trust = self._trust
        if trust is None or not node:
            return
        if trust.roster is not self._roster:
            self._roster = trust.roster
            self._known.clear()
        key = (node, envelope.sender)
        if key not in self._known:
            owner = trust.roster.owner_of(envelope.sender)
            if owner is not None and owner.id != node:
                member = trust.roster.by_id(node)
                raise ProtocolError(
                    f"{member.name if member else node} sent a message in the name of "
                    f"{envelope.sender}"
                )
            self._known.add(key)
        if envelope.later:
            self._partial[message_name(envelope)] = node
            if len(self._partial) > MAX_PARTIAL:
                self._partial.popitem(last=False)

    def check_rest(self, name: bytes, node: str) -> None:
        """Raises ProtocolError when another node began the message of a second part."""
        began = self._partial.pop(name, node)
        if began != node:
            raise ProtocolError("a member sent the second part of a message of another")
