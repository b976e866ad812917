"""Decides which beacons are forwarded. Pure: time is a parameter (seconds).

A beacon is forwarded when it is valid, of this cluster and new. Otherwise it is dropped, and
counted by reason:

- ``invalid``: not a valid beacon;
- ``foreign_cluster``: of another cluster;
- ``stale``: older than the last one, a duplicate, or of a replaced boot;
- ``echo``: sent by this node and returned by a peer, for example when a node is its own peer;
- ``duplicate_node``: sent by a peer that has this node's name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pomona.errors import ProtocolError
from pomona.leases import LEASE_S, LeaseTable
from pomona.messages import codec
from pomona.messages.control import Beacon

Origin = Literal["local", "peer"]
Reason = Literal["invalid", "foreign_cluster", "stale", "echo", "duplicate_node"]

MAX_LOCAL_BOOTS: Final = 256
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

    def __init__(self, cluster: str, node: str) -> None:
        self._cluster = cluster
        self._node = node
        self._leases = LeaseTable()
        self._accepted: dict[str, _AcceptedBoot] = {}
        self._local_boots: OrderedDict[str, None] = OrderedDict()
        self._conflicts: dict[str, float] = {}

    def admit(self, frames: Sequence[bytes], origin: Origin, now: float) -> Beacon | Dropped:
        """Returns the beacon to forward, or the reason to drop it."""
        try:
            beacon = codec.decode_beacon(frames)
        except ProtocolError as error:
            return Dropped("invalid", str(error))
        if beacon.cluster != self._cluster:
            return Dropped("foreign_cluster", f"{beacon.name} is of cluster {beacon.cluster}")
        if origin == "local":
            self._remember_local(beacon.boot)
        elif beacon.node == self._node:
            if beacon.boot in self._local_boots:
                return Dropped("echo", f"{beacon.name} of this node was returned by a peer")
            self._conflicts[beacon.name] = now
            return Dropped("duplicate_node", f"the peer of {beacon.name} has this node's name")
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

    @property
    def conflicts(self) -> frozenset[str]:
        """Names that two live processes claim."""
        return frozenset(self._conflicts)

    def _remember_local(self, boot: str) -> None:
        self._local_boots[boot] = None
        self._local_boots.move_to_end(boot)
        if len(self._local_boots) > MAX_LOCAL_BOOTS:
            self._local_boots.popitem(last=False)

    def _check_conflict(self, beacon: Beacon, now: float) -> None:
        accepted = self._accepted.get(beacon.name)
        if accepted is None or accepted.boot == beacon.boot:
            return
        if now - accepted.since > CONFLICT_AFTER_S:
            self._conflicts[beacon.name] = now
