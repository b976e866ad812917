"""Chooses the next epoch. Pure.

The state file alone is not enough: it may be lost, or older than the plan when the disk was full.
Workers and gateways ignore an epoch below one that they have seen. An epoch so high that it was
never planned is not believed, or one faulty service would leave no epochs to plan.
"""

from __future__ import annotations

from collections.abc import Iterable

from pomona.messages.control import (
    Beacon,
    GatewayFacts,
    Pipeline,
    PlannerFacts,
    StageWorkerFacts,
)

MAX_LOST = 2**32
"""Maximum number of epochs by which the state file and the plan may be behind."""


def next_epoch(saved: int, pipelines: Iterable[Pipeline], beacons: Iterable[Beacon]) -> int:
    """Returns an epoch above all that a file, a planner, a worker or a gateway has seen.

    Args:
        saved: highest epoch of the state file; 0 without one.
    """
    planned = max([saved, *(pipeline.epoch for pipeline in pipelines)])
    seen: list[int] = []
    for beacon in beacons:
        match beacon.facts:
            case StageWorkerFacts() as facts:
                stages = (status.epoch for status in facts.stages)
                obeyed = facts.obeyed_epochs.values()
                own = (facts.highest_epoch, facts.saved_epoch, facts.broken_epoch)
                seen += [*own, *stages, *obeyed]
            case GatewayFacts() as facts:
                seen += facts.proven_epochs.values()
            case PlannerFacts() as facts:
                seen += [pipeline.epoch for pipeline in facts.pipelines]
            case _:
                pass
    return 1 + max([planned, *(epoch for epoch in seen if epoch <= planned + MAX_LOST)])
