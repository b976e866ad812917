"""Workers that are gone for a while, or stall again and again. Pure.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from pomona.messages.control import Beacon, StageWorkerFacts
from pomona.stalls import SET_ASIDE_AFTER

USUAL_RESTART_S: Final = 8.0
"""Seconds from the end of a worker's lease to its return, before one was seen."""
LONGEST_RESTART_S: Final = 60.0
MARGIN: Final = 1.5


def is_set_aside(worker: Beacon) -> bool:
    """Returns whether the worker has stalled too often to be used while others can do without."""
    assert isinstance(worker.facts, StageWorkerFacts)
    return len(worker.facts.stalled_at) >= SET_ASIDE_AFTER


class LostWorkers:
    """Waits for a worker's restart as long as restarts usually take, then plans around it.

    Attributes:
        planned_around: workers that a plan has left out because they were gone.
    """

    def __init__(self) -> None:
        self.planned_around: frozenset[str] = frozenset()
        self._lost_at: dict[str, float] = {}
        self._restart_s = USUAL_RESTART_S

    def update(self, planned: Set[str], present: Set[str], now: float) -> frozenset[str]:
        """Records which workers of the pipeline are present. Returns those that are gone."""
        for name in self._lost_at.keys() & present:
            seconds = MARGIN * (now - self._lost_at.pop(name))
            self._restart_s = min(max(self._restart_s, seconds), LONGEST_RESTART_S)
        lost = frozenset(planned - present)
        for name in lost:
            self._lost_at.setdefault(name, now)
        return lost

    def may_return(self, lost: Set[str], now: float) -> bool:
        """Returns whether all that are gone may still be restarting."""
        return bool(lost) and all(now - self._lost_at[name] < self._restart_s for name in lost)

    def plan_around(self, lost: Set[str], used: Set[str]) -> None:
        """Records a new plan, which leaves the lost workers out and uses others."""
        self.planned_around = (self.planned_around | lost) - used
