"""The roster as the doorkeeper sees and changes it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from pomona.messages.doorstep import Welcome
from pomona.trust import Member, Trust, node_id, roster
from pomona_discovery.doorstep.doorkeeper import Holder


class RosterMembership:
    """Admits nodes to the cluster whose key is on this machine.

    Args:
        peers: returns endpoints of the cluster's discovery services, this one's first.
        live: returns the names of the other nodes that are heard now.
    """

    def __init__(
        self,
        trust: Trust,
        peers: Callable[[], Sequence[str]],
        live: Callable[[], Collection[str]],
    ) -> None:
        self._trust = trust
        self._peers = peers
        self._live = live

    @property
    def head(self) -> str:
        own = self._trust.member
        return own.name if own is not None else "the head"

    def by_key(self, key: str) -> Holder | None:
        return _holder(self._trust.roster.by_key(key))

    def by_name(self, name: str) -> Holder | None:
        return _holder(self._trust.roster.by_name(name))

    def is_live(self, name: str) -> bool:
        return name == self.head or name in self._live()

    def admit(self, joiner: Holder, replaces: bool) -> None:
        """Raises TrustError when the cluster's key is not here, or the name is taken."""
        member = Member(
            node_id(joiner.key),
            joiner.key,
            joiner.name,
            "member",
            since=joiner.since,
            invited_by=self._trust.keys.id,
        )
        self._trust.change(lambda x: roster.with_member(x, member))

    def welcome(self, name: str) -> Welcome:
        current = self._trust.roster
        return Welcome(
            cluster=current.name,
            name=name,
            head=self.head,
            roster=roster.encode(current).decode(),
            peers=tuple(self._peers()),
        )


def _holder(member: Member | None) -> Holder | None:
    return None if member is None else Holder(member.key, member.name, member.since)
