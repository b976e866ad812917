"""Sentences about the changes from one report of a cluster to the next. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pomona.cluster_report import ClusterReport, PipelineReport

ChangeKind = Literal["epoch", "plan", "node", "service", "alert"]
Severity = Literal["info", "good", "warning", "critical"]
CHANGES = 200
"""Changes that are kept."""
_STATE_SEVERITY: Final[dict[str, Severity]] = {"active": "good", "impossible": "critical"}


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Attributes:
        at: Unix time in seconds.
        severity: ``info``, ``good`` when something is well again, ``warning`` or ``critical``.
        text: a sentence.
    """

    at: float
    kind: ChangeKind
    severity: Severity
    text: str


class ChangeLog:
    """The latest changes, oldest first.

    Attributes:
        added: number of changes ever added.
    """

    def __init__(self) -> None:
        self.added = 0
        self._changes: deque[Change] = deque(maxlen=CHANGES)
        self._last: ClusterReport | None = None

    def observe(self, report: ClusterReport, now: float) -> None:
        """Adds what has changed since the last report. ``now`` is Unix time in seconds."""
        before, self._last = self._last, report
        if before is None:
            return
        for change in changes(before, report, now):
            self._changes.append(change)
            self.added += 1

    def after(self, number: int) -> list[Change]:
        """Returns the kept changes after the first ``number`` that were added."""
        return list(self._changes)[max(0, len(self._changes) - (self.added - number)) :]


def changes(before: ClusterReport, after: ClusterReport, now: float) -> Iterator[Change]:
    """Yields the differences between two reports."""
    yield from _nodes(before, after, now)
    yield from _services(before, after, now)
    known = {pipeline.model: pipeline for pipeline in before.pipelines}
    for pipeline in after.pipelines:
        yield from _pipeline(known.pop(pipeline.model, None), pipeline, now)
    for pipeline in known.values():
        yield Change(now, "plan", "info", f"{pipeline.model} is no longer planned")
    raised = {alert.key: alert for alert in before.alerts}
    for alert in after.alerts:
        if raised.pop(alert.key, None) is None:
            yield Change(now, "alert", alert.severity, alert.summary)
    for alert in raised.values():
        yield Change(now, "alert", "good", f"Over: {alert.summary}")


def _nodes(before: ClusterReport, after: ClusterReport, now: float) -> Iterator[Change]:
    old, new = ({node.name for node in report.nodes} for report in (before, after))
    for name in sorted(new - old):
        yield Change(now, "node", "good", f"{name} has joined")
    for name in sorted(old - new):
        yield Change(now, "node", "critical", f"{name} is gone: no beacon arrives from it")


def _services(before: ClusterReport, after: ClusterReport, now: float) -> Iterator[Change]:
    old = {service.name: service for service in before.services}
    new = {service.name: service for service in after.services}
    nodes = {node.name for node in after.nodes}
    for name, service in new.items():
        known = old.get(name)
        if known is None:
            if name.split(".")[0] in {node.name for node in before.nodes}:
                yield Change(now, "service", "good", f"{name} runs (pid {service.pid})")
        elif known.pid != service.pid:
            yield Change(now, "service", "warning", f"{name} was restarted (pid {service.pid})")
        elif known.state != service.state:
            severity = "critical" if service.state == "failed" else "info"
            yield Change(now, "service", severity, f"{name} is {service.state}")
    for name, service in old.items():
        if name not in new and service.node in nodes:
            yield Change(now, "service", "critical", f"{name} is gone: no beacon arrives from it")


def _pipeline(before: PipelineReport | None, after: PipelineReport, now: float) -> Iterator[Change]:
    if before is None or before.epoch != after.epoch:
        where = ", ".join(f"{x.start}..{x.stop} on {x.worker}" for x in after.stages)
        text = f"{after.model}: epoch {after.epoch} is {after.state}"
        yield Change(now, "epoch", "info", f"{text}: layers {where}" if where else text)
    elif before.state != after.state:
        severity = _STATE_SEVERITY.get(after.state, "info")
        reason = f": {after.reason}" if after.reason else ""
        text = f"{after.model}: epoch {after.epoch} is {after.state}{reason}"
        yield Change(now, "epoch", severity, text)
    if before is not None and after.proposal and before.proposal != after.proposal:
        yield Change(now, "plan", "info", f"{after.model}: a better plan: {after.proposal}")
