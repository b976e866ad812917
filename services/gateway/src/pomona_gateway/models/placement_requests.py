"""The choices for machines that this gateway wants, until the planner confirms them.

As with requests to load models, a choice is numbered above everything that the planner has
published, and repeated in beacons, so that none is lost.
"""

from __future__ import annotations

from collections.abc import Callable

from pomona.errors import RequestError
from pomona.messages.control import Beacon, PlannerFacts
from pomona.messages.limits import MAX_STAGES
from pomona.messages.placement import MachineChoice, Placement

RETRY_AFTER_S = 5


class PlacementRequests:
    """Args: on_change: called when the next beacon should be sent at once.

    Attributes:
        pending: what the planner has not confirmed; None when it has.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._known: Placement | None = None
        self.pending: Placement | None = None

    def on_beacon(self, beacon: Beacon) -> None:
        """Learns the planner's choices."""
        if not isinstance(beacon.facts, PlannerFacts):
            return
        self._known = beacon.facts.placement
        if self.pending is not None and self._known.at >= self.pending.at:
            self.pending = None

    def choose(self, machine: str, choice: MachineChoice | None) -> Placement:
        """Asks the planner for another choice for one machine. None takes a choice back.

        Raises:
            RequestError: no planner was heard yet, or there are too many choices (503).
        """
        if self._known is None:
            message = "no planner was heard yet; try again in a moment"
            raise RequestError(503, "no_planner", message, retry_after_s=RETRY_AFTER_S)
        newest = self.pending or self._known
        others = tuple(x for x in newest.choices if x.machine != machine)
        if choice is not None and len(others) >= MAX_STAGES:
            message = f"{MAX_STAGES} machines have a choice already; take one back"
            raise RequestError(503, "too_many_choices", message, retry_after_s=RETRY_AFTER_S)
        chosen = others if choice is None else (*others, choice)
        self.pending = Placement(chosen, newest.at + 1)
        self._on_change()
        return self.pending
