"""Decides which beacons are forwarded. Pure: time is a parameter (seconds).

A beacon is forwarded when it is valid, of this cluster and new. Otherwise it is dropped, and
counted by reason:

- ``invalid``: not a valid beacon;
- ``foreign_cluster``: of another cluster;
- ``stale``: older than the last one, a duplicate, or of a replaced boot;
- ``echo``: sent by this node and returned by a peer, for example when a node is its own peer;
- ``duplicate_node``: sent by a peer that has this node's name;
- ``too_many_names``: of a new service of a node that has, or had within a minute, very many;
- ``impostor``: in the name of a node whose key did not send it, or of one that is not a member, or
  of a service of another node;
- ``unauthorised``: a plan of a node that may not plan.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pomona.errors import ProtocolError
from pomona.leases import LEASE_S, LeaseTable
from pomona.messages import codec
from pomona.messages.control import Beacon
from pomona.trust import Roster

Origin = Literal["local", "peer"]
Reason = Literal[
    "invalid",
    "foreign_cluster",
    "stale",
    "echo",
    "duplicate_node",
    "too_many_names",
    "impostor",
    "unauthorised",
]

MAX_LOCAL_BOOTS: Final = 256
MAX_NEW_NAMES: Final = 128
"""Services of one node that appear within NEW_NAMES_S. A node has up to 64 stage workers."""
NEW_NAMES_S: Final = 60.0
CONFLICT_AFTER_S: Final = LEASE_S / 2
CONFLICT_ENDS_S: Final = 2 * LEASE_S


@dataclass(frozen=True, slots=True)
class Dropped:
    """A beacon that is not forwarded. ``detail`` is for the log."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class _AcceptedBoot:
    """The boot of a name whose beacons are accepted, and the time of its first one."""

    boot: str
    since: float


class BeaconFilter:
    """Admits each beacon of one cluster once, and detects processes that share a name.

    Two processes share a name when beacons of a replaced boot still arrive
    :data:`CONFLICT_AFTER_S` after its successor's first one: a dead process sends none by then.
    """

    def __init__(
        self, cluster: str, node: str, roster: Callable[[], Roster | None] = lambda: None
    ) -> None:
        """Args: roster: returns the members; None where everybody is believed."""
        self._roster = roster
        self._cluster = cluster
        self._node = node
        self._leases = LeaseTable()
        self._accepted: dict[str, _AcceptedBoot] = {}
        self._local_boots: OrderedDict[str, None] = OrderedDict()
        self._conflicts: dict[str, float] = {}
        self._new_names: dict[str, dict[str, float]] = {}

    def admit(
        self, frames: Sequence[bytes], origin: Origin, now: float, sender: str = ""
    ) -> Beacon | Dropped:
        """Returns the beacon to forward, or the reason to drop it.

        Args:
            sender: id of the node whose key brought a peer's beacon.
        """
        try:
            beacon = codec.decode_beacon(frames)
        except ProtocolError as error:
            return Dropped("invalid", str(error))
        if beacon.cluster != self._cluster:
            return Dropped("foreign_cluster", f"{beacon.name} is of cluster {beacon.cluster}")
        if (roster := self._roster()) is not None:
            if origin == "peer" and not _is_own(roster, sender, beacon.node):
                return Dropped("impostor", f"{beacon.name} was not sent by {beacon.node}")
            if origin == "peer" and not self._may_use_name(roster, beacon):
                return Dropped("impostor", f"{beacon.node} uses the name {beacon.name} of another")
            if beacon.facts.service == "planner" and not _may_plan(roster, beacon.node):
                return Dropped("unauthorised", f"{beacon.node} is not a head: it may not plan")
        if origin == "local":
            self._remember_local(beacon.boot)
        elif beacon.node == self._node:
            if beacon.boot in self._local_boots:
                return Dropped("echo", f"{beacon.name} of this node was returned by a peer")
            self._conflicts[beacon.name] = now
            return Dropped("duplicate_node", f"the peer of {beacon.name} has this node's name")
        if not self._may_appear(beacon, now):
            return Dropped("too_many_names", f"{beacon.node} has too many services: {beacon.name}")
        if not self._leases.observe(beacon, now):
            self._check_conflict(beacon, now)
            return Dropped("stale", f"{beacon.name} {beacon.seq} is not new")
        accepted = self._accepted.get(beacon.name)
        if accepted is None or accepted.boot != beacon.boot:
            self._accepted[beacon.name] = _AcceptedBoot(beacon.boot, now)
        return beacon

    def expire(self, now: float) -> list[Beacon]:
        """Removes expired leases and ended conflicts. Returns the last beacons of the former."""
        expired = self._leases.expire(now)
        for beacon in expired:
            self._accepted.pop(beacon.name, None)
        for name, seen_at in list(self._conflicts.items()):
            if now - seen_at > CONFLICT_ENDS_S:
                del self._conflicts[name]
        return expired

    def remove_strangers(self) -> list[Beacon]:
        """Removes the leases of nodes that are not members, and returns their last beacons."""
        roster = self._roster()
        if roster is None:
            return []
        removed = self._leases.remove_nodes(
            lambda node: node == self._node or roster.by_name(node) is not None
        )
        for beacon in removed:
            self._accepted.pop(beacon.name, None)
        return removed

    @property
    def conflicts(self) -> frozenset[str]:
        """Names that two live processes claim."""
        return frozenset(self._conflicts)

    def _remember_local(self, boot: str) -> None:
        self._local_boots[boot] = None
        self._local_boots.move_to_end(boot)
        if len(self._local_boots) > MAX_LOCAL_BOOTS:
            self._local_boots.popitem(last=False)

    def _may_appear(self, beacon: Beacon, now: float) -> bool:
        """Counts the new names of a node. Tests whether it may have one more."""
        if self._leases.get(beacon.name) is not None:
            return True
        names = self._new_names.setdefault(beacon.node, {})
        for name in [x for x, at in names.items() if now - at > NEW_NAMES_S]:
            del names[name]
        if beacon.name not in names and len(names) >= MAX_NEW_NAMES:
            return False
        names[beacon.name] = now
        return True

    def _may_use_name(self, roster: Roster, beacon: Beacon) -> bool:
        """Tests whether a name is free, or of the beacon's node: a newer boot under the name of
        another node is not believed."""
        owner = roster.owner_of(beacon.name)
        if owner is not None and owner.name != beacon.node:
            return False
        lease = self._leases.get(beacon.name)
        return lease is None or lease.beacon.node == beacon.node

    def _check_conflict(self, beacon: Beacon, now: float) -> None:
        accepted = self._accepted.get(beacon.name)
        # A gateway that drains finishes its requests beside its successor.
        if accepted is None or accepted.boot == beacon.boot or beacon.state == "draining":
            return
        if now - accepted.since > CONFLICT_AFTER_S:
            self._conflicts[beacon.name] = now


def _is_own(roster: Roster, sender: str, node: str) -> bool:
    member = roster.by_id(sender)
    return member is not None and member.name == node


def _may_plan(roster: Roster, node: str) -> bool:
    member = roster.by_name(node)
    return member is not None and member.role == "head"
