"""Requests to drain nodes and to end drains, which this gateway states to the planner.

They stay in the gateway's beacon until the planner's beacon has a decision on them, so that none
is lost, and are numbered above its decisions, as requests to load models are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pomona.errors import RequestError
from pomona.messages.control import Beacon, DrainRequest, NodeDrain, PlannerFacts

MAX_PENDING: Final = 64
"""Maximum number of requests that the planner has not confirmed."""
RETRY_AFTER_S: Final = 5


class DrainRequests:
    """Drain requests of this gateway, one for each node.

    Args:
        on_change: called when the next beacon should be sent at once.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._pending: dict[str, DrainRequest] = {}
        self._decisions: dict[str, NodeDrain] = {}
        self._heard = False

    @property
    def pending(self) -> tuple[DrainRequest, ...]:
        """Requests that the planner has not confirmed; none before it was heard."""
        return tuple(self._pending.values()) if self._heard else ()

    def knows(self, node: str) -> bool:
        """Returns whether a decision on the node is known."""
        return node in self._decisions

    def request(
        self, node: str, drained: bool, until_back: bool = False, force: bool = False
    ) -> DrainRequest:
        """States a request, in place of an earlier one for the same node.

        Raises:
            RequestError: too many requests wait for the planner.
        """
        if node not in self._pending and len(self._pending) >= MAX_PENDING:
            raise RequestError(
                503,
                "too_many_drains",
                "the planner has not confirmed the drains requested before; try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        request = DrainRequest(node, drained, until_back, force, self._next_place())
        self._pending[node] = request
        self._on_change()
        return request

    def on_beacon(self, beacon: Beacon) -> None:
        """Drops the requests on which the planner has decided."""
        if not isinstance(beacon.facts, PlannerFacts):
            return
        for drain in beacon.facts.drains:
            known = self._decisions.get(drain.node)
            if known is None or drain.at >= known.at:
                self._decisions[drain.node] = drain
        is_first, self._heard = not self._heard, True
        for node, request in list(self._pending.items()):
            decided = self._decisions.get(node)
            if is_first:
                self._pending[node] = replace(request, at=self._next_place())
            elif decided is not None and decided.at >= request.at:
                del self._pending[node]

    def _next_place(self) -> float:
        places = (x.at for x in (*self._decisions.values(), *self._pending.values()))
        return max(places, default=0.0) + 1
