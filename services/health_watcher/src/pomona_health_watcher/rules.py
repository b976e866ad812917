"""Finds faults in the cluster, from its beacons. Pure: time is a parameter, in seconds.

A condition is something that is wrong now, or has just been wrong and may happen again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from pomona.leases import Lease
from pomona.messages.control import Beacon, PlannerFacts, StageWorkerFacts
from pomona.messages.discovery import DiscoveryFacts
from pomona.stalls import SET_ASIDE_AFTER
from pomona_health_watcher.conditions import AlertThresholds, Condition, Severity, title_of
from pomona_health_watcher.drained_nodes import DrainedNodes
from pomona_health_watcher.loss_rules import KnownService, LossRules
from pomona_health_watcher.node_rules import NodeRules
from pomona_health_watcher.restart_rules import RestartRules
from pomona_health_watcher.stall_rules import stall_of

MEMORY_HYSTERESIS: Final = 0.05
"""Share of memory below a threshold at which its alert ends, to avoid flapping."""

LOCAL_NETWORK_DENIED: Final = "denies Pomona the Local Network"
"""Part of the trouble that a discovery service states when macOS refuses it the own network."""
START_S: Final = 60.0
"""Longest time after the watcher's start for stage workers to start. Until then a model that fits
on no nodes is none of their faults."""


class HealthRules:
    """Evaluates every rule for every service.

    Args:
        name, boot, node: of the watcher itself; see :class:`LossRules`.
        known: services that a former process of this watcher knew.
    """

    def __init__(
        self, name: str, boot: str, node: str, thresholds: AlertThresholds, now: float,
        known: Iterable[KnownService] = (),
    ) -> None:  # fmt: skip
        self._thresholds = thresholds
        self._losses = LossRules(name, boot, node, now, known)
        self._restarts = RestartRules()
        self._drained = DrainedNodes()
        self._nodes = NodeRules(thresholds.disk_free_warning)
        self._memory_severity: dict[str, Severity] = {}
        self._impossible_since: dict[str, float] = {}
        self._started_at = now

    def on_lease(self, lease: Lease, now: float) -> None:
        """Applies a new beacon."""
        death = self._losses.on_lease(lease, now)
        if death is not None and not self._drained.includes(lease.beacon):
            self._restarts.on_restart(death, lease.beacon)
        self._restarts.on_beacon(lease.beacon, now)

    def evaluate(self, now: float) -> list[Condition]:
        """Returns everything that is wrong now.

        A lost service is judged by its last beacon: its silence ends no other condition. What
        follows from a drain is left out.
        """
        leases = self._losses.leases()
        self._drained.update((lease.beacon for lease in leases), now)
        found = self._losses.evaluate(now)
        lost = {condition.key for condition in found}
        if self._losses.is_connected(now):
            self._restarts.update(self._losses.live(), now)
        found += [x for x in self._restarts.conditions(now) if x.key not in lost]
        for lease in leases:
            found += self._conditions_of(lease)
        found += self._nodes.evaluate(self._losses.live().values(), now)
        nodes = {lease.beacon.name: lease.beacon.node for lease in leases}
        return [x for x in found if not self._drained.is_expected(x, nodes)]

    def settled(self, now: float) -> bool:
        """True when beacons have arrived for long enough to judge a former process's alerts."""
        return self._losses.settled(now)

    def known_services(self) -> list[KnownService]:
        """Returns the services for the state file, by name."""
        return self._losses.known_services()

    def live_services(self) -> list[Beacon]:
        """Returns the newest beacon of every service that is not lost."""
        return list(self._losses.live().values())

    def _conditions_of(self, lease: Lease) -> Iterator[Condition]:
        beacon = lease.beacon
        has_reason = False
        match beacon.facts:
            case StageWorkerFacts() as facts:
                stall = stall_of(lease, self._thresholds.stall_after_s)
                if stall is not None:
                    yield stall
                if len(facts.stalled_at) >= SET_ASIDE_AFTER:
                    yield Condition(
                        f"set_aside/{beacon.name}",
                        "critical",
                        f"{title_of(beacon)} was ended {len(facts.stalled_at)} times within ten "
                        "minutes because it made no progress. It is set aside while others can "
                        "hold the model. It is taken back ten minutes after the last time, or when "
                        f"{beacon.name}.stalls.json is deleted from its state folder and it is "
                        "restarted.",
                    )
                for false in facts.false_weights:
                    yield Condition(
                        f"false_weights/{false.peer}"[:1024],
                        "critical",
                        f"stage worker {false.peer} on node {false.node} sent other bytes of "
                        f"{false.file} of {false.model} than those of the plan. {title_of(beacon)} "
                        "refused them and reads from other sources.",
                    )
                yield from self._memory(beacon.name, title_of(beacon), facts)
                if facts.panicked_at:
                    yield Condition(
                        f"panic/{beacon.name}",
                        "critical",
                        f"the Mac of {title_of(beacon)} panicked while it held layers. They are "
                        "not loaded again with the same limits until the worker is restarted; "
                        "the report is in /Library/Logs/DiagnosticReports.",
                    )
                for stage in facts.stages:
                    if stage.state == "failed":
                        has_reason = True
                        yield Condition(
                            f"stage_failed/{beacon.name}/{stage.model}"[:1024],
                            "critical",
                            f"{title_of(beacon)} failed to load layers {stage.start} to "
                            f"{stage.stop - 1} of {stage.model}: {stage.error}",
                        )
            case PlannerFacts() as facts:
                yield from self._impossible_pipelines(facts, lease.received_at)
            case DiscoveryFacts(troubles=troubles):
                for trouble in troubles:
                    if LOCAL_NETWORK_DENIED in trouble:
                        yield Condition(
                            f"local_network/{beacon.node}", "critical", f"{beacon.node}: {trouble}."
                        )
                        break
            case _:
                pass
        if beacon.state == "failed" and not has_reason:
            reason = ""
            if isinstance(beacon.facts, StageWorkerFacts):
                reason = beacon.facts.unusable_reason
            summary = f"{title_of(beacon)} failed{f': {reason}' if reason else ''}."
            yield Condition(f"service_failed/{beacon.name}", "critical", summary)

    def _memory(self, worker: str, title: str, facts: StageWorkerFacts) -> Iterator[Condition]:
        loaded = sum(stage.loaded_bytes for stage in facts.stages)
        charged = facts.footprint_bytes or facts.resident_bytes
        used = max(charged, facts.active_bytes, loaded + facts.cache_bytes)
        usable = facts.usable_memory_bytes
        share = used / usable if usable else 0.0
        before = self._memory_severity.get(worker)
        warning, critical = self._thresholds.memory_warning, self._thresholds.memory_critical
        severity: Severity | None = None
        if share >= critical - (MEMORY_HYSTERESIS if before == "critical" else 0):
            severity = "critical"
        elif share >= warning - (MEMORY_HYSTERESIS if before else 0):
            severity = "warning"
        if severity is None:
            self._memory_severity.pop(worker, None)
            return
        self._memory_severity[worker] = severity
        yield Condition(
            f"memory/{worker}",
            severity,
            f"{title} uses {_gib(used)} of its {_gib(usable)} of usable memory ({share:.0%}); "
            f"KV caches take {_gib(facts.cache_bytes)} of it.",
        )

    def _impossible_pipelines(self, facts: PlannerFacts, now: float) -> Iterator[Condition]:
        impossible = {x.model: x.reason for x in facts.pipelines if x.state == "impossible"}
        if now - self._started_at < START_S and not self._workers_are_ready():
            impossible = {}
        for model in set(self._impossible_since) - set(impossible):
            del self._impossible_since[model]
        for model, reason in impossible.items():
            if now - self._impossible_since.setdefault(model, now) >= (
                self._thresholds.impossible_after_s
            ):
                yield Condition(
                    f"pipeline/{model}"[:1024],
                    "critical",
                    f"no pipeline can be formed for {model}: {reason}",
                )

    def _workers_are_ready(self) -> bool:
        """Tells whether there are stage workers, and none is starting."""
        states = [
            beacon.state
            for beacon in self._losses.live().values()
            if isinstance(beacon.facts, StageWorkerFacts)
        ]
        return bool(states) and "starting" not in states


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
