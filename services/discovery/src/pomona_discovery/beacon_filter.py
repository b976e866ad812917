"""Which beacons are forwarded. Pure: time is a parameter (seconds).

Whatever arrives is decoded and judged before anybody else sees it. A beacon passes when it
is valid, of this cluster, and news. It is dropped, and the reason counted, when it is

- ``invalid``: bytes that are no beacon;
- ``foreign_cluster``: of another cluster;
- ``stale``: older than what is known, or heard twice, or of an ended boot;
- ``echo``: sent by this node and come back from a peer, as when a node is its own peer;
- ``duplicate_node``: from a peer that bears this node's name.
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

LOCAL_BOOTS_KEPT: Final = 256
CONFLICT_AFTER_S: Final = LEASE_S / 2
CONFLICT_ENDS_S: Final = 2 * LEASE_S


@dataclass(frozen=True, slots=True)
class Dropped:
    """A beacon that is not forwarded. ``detail`` says more, for a log."""

    reason: Reason
    detail: str


@dataclass(slots=True)
class _Boots:
    """The boot of a name that is believed, and since when."""

    boot: str
    since: float


class BeaconFilter:
    """Admits beacons of one cluster, once each, and notices when two processes share a name.

    Two processes share a name when the boot that was replaced goes on speaking: a process
    that is really gone says nothing :data:`CONFLICT_AFTER_S` after its successor began.
    """

    def __init__(self, cluster: str, node: str) -> None:
        self._cluster = cluster
        self._node = node
        self._leases = LeaseTable()
        self._boots: dict[str, _Boots] = {}
        self._local_boots: OrderedDict[str, None] = OrderedDict()
        self._conflicts: dict[str, float] = {}

    def admit(self, frames: Sequence[bytes], origin: Origin, now: float) -> Beacon | Dropped:
        """The beacon to forward, or why there is none."""
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
                return Dropped("echo", f"{beacon.name} of this node came back")
            self._conflicts[beacon.name] = now
            return Dropped("duplicate_node", f"{beacon.name} bears this node's name")
        if not self._leases.observe(beacon, now):
            self._notice_conflict(beacon, now)
            return Dropped("stale", f"{beacon.name} {beacon.seq} is no news")
        known = self._boots.get(beacon.name)
        if known is None or known.boot != beacon.boot:
            self._boots[beacon.name] = _Boots(beacon.boot, now)
        return beacon

    def expire(self, now: float) -> list[Beacon]:
        """Forget who was silent too long, and conflicts that are over; the last beacons."""
        silent = self._leases.expire(now)
        for beacon in silent:
            self._boots.pop(beacon.name, None)
        for name, heard_at in list(self._conflicts.items()):
            if now - heard_at > CONFLICT_ENDS_S:
                del self._conflicts[name]
        return silent

    @property
    def conflicts(self) -> frozenset[str]:
        """Names that two living processes claim."""
        return frozenset(self._conflicts)

    def _remember_local(self, boot: str) -> None:
        self._local_boots[boot] = None
        self._local_boots.move_to_end(boot)
        if len(self._local_boots) > LOCAL_BOOTS_KEPT:
            self._local_boots.popitem(last=False)

    def _notice_conflict(self, beacon: Beacon, now: float) -> None:
        known = self._boots.get(beacon.name)
        if known is None or known.boot == beacon.boot:
            return
        if now - known.since > CONFLICT_AFTER_S:
            self._conflicts[beacon.name] = now
