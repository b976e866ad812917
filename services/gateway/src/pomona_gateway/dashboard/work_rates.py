"""Work rate of each stage worker, from the counters in its beacons. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pomona.messages.control import Beacon, StageWorkerFacts

WINDOW_S = 3.0
"""Seconds of beacons over which rates are averaged."""
MIN_SPAN_S = 0.5
"""Shortest time between two beacons that gives a rate."""


@dataclass(frozen=True, slots=True)
class Work:
    """Recent work of a stage worker.

    Attributes:
        steps_per_s: finished steps a second.
        busy: share of the time in which it computed, 0 to 1.
        step_tokens: tokens of the step that ran when its last beacon was made.
        lanes: micro-batches in flight, counted by the head; 0 on other stages.
    """

    steps_per_s: float
    busy: float
    step_tokens: int
    lanes: int


@dataclass(frozen=True, slots=True)
class _Counters:
    at: float
    steps: int
    compute_us: int


class WorkRates:
    """Rates of all stage workers over the last seconds."""

    def __init__(self) -> None:
        self._counters: dict[str, deque[_Counters]] = {}
        self._facts: dict[str, StageWorkerFacts] = {}

    def on_beacon(self, beacon: Beacon, now: float) -> None:
        """Records a stage worker's counters. ``now`` is monotonic seconds."""
        facts = beacon.facts
        if not isinstance(facts, StageWorkerFacts):
            return
        self._facts[beacon.name] = facts
        kept = self._counters.setdefault(beacon.name, deque())
        if kept and (beacon.progress < kept[-1].steps or facts.compute_us < kept[-1].compute_us):
            kept.clear()  # another process, or a stage less
        kept.append(_Counters(now, beacon.progress, facts.compute_us))
        while kept[-1].at - kept[0].at > WINDOW_S:
            kept.popleft()

    def forget(self, name: str) -> None:
        """Drops a worker whose lease has expired."""
        self._counters.pop(name, None)
        self._facts.pop(name, None)

    def work(self) -> dict[str, Work]:
        """Returns the work of each known worker, by name."""
        return {name: self._work(name) for name in sorted(self._facts)}

    def _work(self, name: str) -> Work:
        facts, first, last = self._facts[name], self._counters[name][0], self._counters[name][-1]
        span_s = last.at - first.at
        if span_s < MIN_SPAN_S:
            return Work(0.0, 0.0, facts.step_tokens, facts.lanes)
        busy = (last.compute_us - first.compute_us) / (1e6 * span_s)
        return Work(
            round((last.steps - first.steps) / span_s, 1),
            round(min(busy, 1.0), 2),
            facts.step_tokens,
            facts.lanes,
        )
