"""What is wrong in the cluster, by the beacons heard. Pure: time is a parameter (seconds).

Beacons come in, conditions come out. A condition is something that is wrong now; an
incident is something that was wrong and is over, such as a service that died and was
restarted before its lease ended. Neither is told to anybody here.

Silence has two readings. A service that falls silent is lost; a watcher that hears nobody,
not even its own beacons, has lost the discovery service of its node, and knows nothing
about the others until it hears again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pomona.leases import BEACON_INTERVAL_S, LEASE_S, Lease
from pomona.messages.control import (
    Beacon,
    PlannerFacts,
    ServiceName,
    StageWorkerFacts,
    State,
)

DEAF_S: Final = BEACON_INTERVAL_S * 1.5
"""Silence of our own beacons after which the silence of others proves nothing."""
SETTLE_S: Final = BEACON_INTERVAL_S * 1.5
"""Services of one node fall silent within a beacon interval of each other: so long a lost
service waits to be told alone, in case its whole node is lost."""
RETURN_GRACE_S: Final = 10.0
"""What services get to be heard again after their node or our hearing returned."""
SLEPT_S: Final = BEACON_INTERVAL_S
"""A pause between two judgements after which beacons may lie unread."""
START_GRACE_S: Final = 15.0
"""What the discovery service of this node gets to be heard the first time."""
SETTLED_S: Final = 20.0
"""Hearing this long, what a former process of this watcher told is judged anew."""
FORGET_AFTER_S: Final = 86400.0
"""A service lost for so long is taken for removed."""
MEMORY_CLEARS: Final = 0.05
"""Share of memory below a threshold at which its alert ends, so that it does not flap."""

Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True)
class AlertThresholds:
    """Thresholds of the rules; see the settings of the same names."""

    stall_after_s: float = 15.0
    memory_warning: float = 0.90
    memory_critical: float = 0.97
    impossible_after_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Condition:
    """Something wrong. ``key`` is ``kind/subject``: the same trouble has the same key."""

    key: str
    severity: Severity
    summary: str


@dataclass(frozen=True, slots=True)
class Known:
    """A service as it is remembered over a restart of the watcher.

    Attributes:
        lost: it was silent past its lease.
        alone, with_node: that was an alert, of its own or one for its whole node.
    """

    name: str
    node: str
    service: ServiceName
    boot: str
    state: State
    lost: bool = False
    alone: bool = False
    with_node: bool = False


@dataclass(slots=True)
class _Member:
    name: str
    node: str
    service: ServiceName
    boot: str
    state: State
    received_at: float
    lease: Lease | None = None
    lost_at: float | None = None
    alone_from: float = 0.0
    alone: bool = False
    with_node: bool = False

    def died_untold(self) -> bool:
        """Its process is gone without a farewell, and no alert says so."""
        return self.state != "draining" and not (self.alone or self.with_node)

    @property
    def title(self) -> str:
        return f"{self.service.replace('_', ' ')} {self.name}"


class HealthRules:
    """The rules, and what they remember of each service.

    Args:
        name, boot, node: of the watcher itself, whose beacons prove that it hears.
        known: services that a former process of this watcher knew.
    """

    def __init__(
        self, name: str, boot: str, node: str, limits: AlertThresholds, now: float,
        known: Iterable[Known] = (),
    ) -> None:  # fmt: skip
        self._name = name
        self._boot = boot
        self._node = node
        self._limits = limits
        self._started_at = now
        self._echo_at: float | None = None
        self._hearing_since: float | None = None
        self._return_grace_s = RETURN_GRACE_S
        self._judged_at = now
        self._deaf_told = False
        self._members: dict[str, _Member] = {}
        self._lost_nodes: set[str] = set()
        self._pressed: dict[str, Severity] = {}
        self._impossible_since: dict[str, float] = {}
        for one in known:
            self._members[one.name] = _Member(
                one.name, one.node, one.service, one.boot, one.state, now,
                lost_at=now if one.lost else None, alone=one.alone, with_node=one.with_node,
            )  # fmt: skip

    def on_lease(self, lease: Lease, now: float) -> list[Condition]:
        """Take in a beacon that is news. Incidents: who died and is already back."""
        beacon = lease.beacon
        if beacon.name == self._name:
            if beacon.boot == self._boot:
                self._hear_itself(now)
            return []
        member = self._members.get(beacon.name)
        incidents: list[Condition] = []
        if member is None:
            member = self._members[beacon.name] = _member(beacon, now)
        elif member.boot != beacon.boot and member.died_untold():
            incidents.append(_restarted(member))
        member.boot, member.state, member.node = beacon.boot, beacon.state, beacon.node
        member.lease, member.received_at = lease, now
        member.lost_at, member.alone, member.with_node = None, False, False
        return incidents

    def judge(self, now: float) -> list[Condition]:
        """Everything that is wrong now."""
        if self._echo_at is not None and now - self._judged_at > SLEPT_S:
            self._echo_at = max(self._echo_at, now - DEAF_S - 1e-3)
        self._judged_at = now
        found: list[Condition] = []
        if self._hears(now):
            self._notice_silence(now)
        else:
            found += self._deafness(now)
        found += self._losses(now)
        for member in self._members.values():
            if member.lease is not None:
                found += self._troubles(member, member.lease)
        return found

    def settled(self, now: float) -> bool:
        """True when enough was heard to judge what a former process told."""
        return self._hearing_since is not None and now - self._hearing_since >= SETTLED_S

    def known(self) -> list[Known]:
        """What to remember over a restart."""
        return [
            Known(
                x.name, x.node, x.service, x.boot, x.state,
                x.lost_at is not None, x.alone, x.with_node,
            )
            for x in sorted(self._members.values(), key=lambda member: member.name)
        ]  # fmt: skip

    # Hearing -------------------------------------------------------------------------

    def _hears(self, now: float) -> bool:
        return self._echo_at is not None and now - self._echo_at <= DEAF_S

    def _hear_itself(self, now: float) -> None:
        if self._echo_at is None or now - self._echo_at > LEASE_S:
            self._hearing_since, self._return_grace_s = now, RETURN_GRACE_S
        elif not self._hears(now):
            self._hearing_since, self._return_grace_s = now, LEASE_S
        self._echo_at = now
        self._deaf_told = False

    def _deafness(self, now: float) -> Iterator[Condition]:
        discovery = self._members.get(f"{self._node}.discovery")
        if self._echo_at is None:
            deaf = now - self._started_at > START_GRACE_S
        else:
            deaf = now - self._echo_at > LEASE_S
        if discovery is not None and discovery.state == "draining":
            deaf = False
        if not deaf and not self._deaf_told:
            return
        self._deaf_told = True
        if discovery is not None:
            discovery.with_node = True
        yield Condition(
            f"service_lost/{self._node}.discovery",
            "critical",
            f"discovery {self._node}.discovery is lost: the health watcher on this node hears "
            "nobody, so nothing is known of the other services until it is back.",
        )

    # Losses --------------------------------------------------------------------------

    def _notice_silence(self, now: float) -> None:
        since = self._hearing_since or 0.0
        for member in list(self._members.values()):
            if member.lost_at is not None:
                if now - member.lost_at > FORGET_AFTER_S:
                    del self._members[member.name]
                continue
            limit = member.received_at + LEASE_S
            if member.received_at < since:
                limit = max(limit, since + self._return_grace_s)
            if now <= limit:
                continue
            if member.state == "draining":
                del self._members[member.name]
            else:
                member.lost_at, member.with_node = now, False
                member.alone_from = now + SETTLE_S

    def _losses(self, now: float) -> Iterator[Condition]:
        nodes: dict[str, list[_Member]] = {}
        for member in self._members.values():
            nodes.setdefault(member.node, []).append(member)
        for node, members in nodes.items():
            lost = [member for member in members if member.lost_at is not None]
            node_lost = self._is_node_lost(node, members, lost)
            if node_lost:
                self._lost_nodes.add(node)
                for member in lost:
                    member.with_node = True
                names = ", ".join(sorted(member.name for member in lost))
                yield Condition(
                    f"node_lost/{node}",
                    "critical",
                    f"node {node} is lost: nothing is heard of {names}. The machine, its "
                    "network or its discovery service is down.",
                )
            elif node in self._lost_nodes:
                self._lost_nodes.remove(node)
                for member in lost:
                    member.alone_from = now + RETURN_GRACE_S
            for member in lost:
                if not node_lost and now >= member.alone_from:
                    member.alone = True
                if member.alone:
                    yield _lost(member)
        self._lost_nodes &= set(nodes)

    def _is_node_lost(self, node: str, members: list[_Member], lost: list[_Member]) -> bool:
        if node == self._node or len(lost) < len(members):
            return False
        return len(lost) > 1 or lost[0].service == "discovery"

    # Troubles that services tell -------------------------------------------------------

    def _troubles(self, member: _Member, lease: Lease) -> Iterator[Condition]:
        """By the last beacon: a trouble is not over because its teller fell silent."""
        beacon = lease.beacon
        said = False
        match beacon.facts:
            case StageWorkerFacts() as facts:
                yield from self._stall(member, lease)
                yield from self._memory(member, facts)
                for stage in facts.stages:
                    if stage.state == "failed":
                        said = True
                        yield Condition(
                            f"stage_failed/{member.name}/{stage.model}"[:1024],
                            "critical",
                            f"{member.title} cannot hold layers {stage.start} to "
                            f"{stage.stop - 1} of {stage.model}: {stage.error}",
                        )
            case PlannerFacts() as facts:
                yield from self._impossible(facts, lease.received_at)
            case _:
                pass
        if beacon.state == "failed" and not said:
            yield Condition(
                f"service_failed/{member.name}", "critical", f"{member.title} says it failed."
            )

    def _stall(self, member: _Member, lease: Lease) -> Iterator[Condition]:
        beacon = lease.beacon
        still_s = lease.received_at - lease.progressed_at
        if beacon.state == "ready" and beacon.queued and still_s >= self._limits.stall_after_s:
            yield Condition(
                f"stalled/{member.name}",
                "critical",
                f"{member.title} stands still: its queue holds {beacon.queued}, and nothing was "
                f"finished for {still_s:.0f} s.",
            )

    def _memory(self, member: _Member, facts: StageWorkerFacts) -> Iterator[Condition]:
        loaded = sum(stage.loaded_bytes for stage in facts.stages)
        used = max(facts.resident_bytes, loaded + facts.cache_bytes)
        usable = facts.usable_memory_bytes
        share = used / usable if usable else 0.0
        before = self._pressed.get(member.name)
        warning, critical = self._limits.memory_warning, self._limits.memory_critical
        severity: Severity | None = None
        if share >= critical - (MEMORY_CLEARS if before == "critical" else 0):
            severity = "critical"
        elif share >= warning - (MEMORY_CLEARS if before else 0):
            severity = "warning"
        if severity is None:
            self._pressed.pop(member.name, None)
            return
        self._pressed[member.name] = severity
        yield Condition(
            f"memory/{member.name}",
            severity,
            f"{member.title} uses {_gib(used)} of the {_gib(usable)} it may use "
            f"({share:.0%}); {_gib(facts.cache_bytes)} of it are caches.",
        )

    def _impossible(self, facts: PlannerFacts, now: float) -> Iterator[Condition]:
        impossible = {x.model: x.reason for x in facts.pipelines if x.state == "impossible"}
        for model in set(self._impossible_since) - set(impossible):
            del self._impossible_since[model]
        for model, reason in impossible.items():
            if now - self._impossible_since.setdefault(model, now) >= (
                self._limits.impossible_after_s
            ):
                yield Condition(
                    f"pipeline/{model}"[:1024],
                    "critical",
                    f"no pipeline can be formed for {model}: {reason}",
                )


def _member(beacon: Beacon, now: float) -> _Member:
    return _Member(beacon.name, beacon.node, beacon.facts.service, beacon.boot, beacon.state, now)


def _lost(member: _Member) -> Condition:
    return Condition(
        f"service_lost/{member.name}",
        "warning" if member.service == "health_watcher" else "critical",
        f"{member.title} on node {member.node} is lost: it sent no beacon for {LEASE_S:.0f} s "
        "and did not say that it was stopping.",
    )


def _restarted(member: _Member) -> Condition:
    return Condition(
        f"service_lost/{member.name}",
        "warning" if member.service == "health_watcher" else "critical",
        f"{member.title} on node {member.node} died and was started again.",
    )


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
