"""Chooses the next epoch. Pure.

The state file alone is not enough: it may be lost, or older than the plan when the disk was full.
Workers and gateways ignore an epoch below one that they have seen.
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


def next_epoch(saved: int, pipelines: Iterable[Pipeline], beacons: Iterable[Beacon]) -> int:
    """Returns an epoch above all that a file, a planner, a worker or a gateway has seen.

    Args:
        saved: highest epoch of the state file; 0 without one.
    """
    highest = max([saved, *(pipeline.epoch for pipeline in pipelines)])
    for beacon in beacons:
        match beacon.facts:
            case StageWorkerFacts() as facts:
                stages = (status.epoch for status in facts.stages)
                obeyed = facts.obeyed_epochs.values()
                highest = max([highest, facts.highest_epoch, facts.broken_epoch, *stages, *obeyed])
            case GatewayFacts() as facts:
                highest = max([highest, *facts.proven_epochs.values()])
            case PlannerFacts(pipelines=planned):
                highest = max([highest, *(pipeline.epoch for pipeline in planned)])
            case _:
                pass
    return highest + 1
