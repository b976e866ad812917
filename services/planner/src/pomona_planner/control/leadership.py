"""Decides when a planner may plan: after it has heard what the cluster runs, and alone. Pure.

A planner that starts knows nothing but its file, which may be lost or old. Until it has heard the
workers it publishes no pipeline, since an empty plan would end them. Of two planners one waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from pomona.messages.control import Beacon, GatewayFacts, Pipeline
from pomona_planner.control.adoption import is_confirmed, is_unused, reported_pipelines

GRACE_S = 2.5
"""Seconds after discovery is connected within which every beacon of a worker arrives, even if one
is lost."""
UNUSED_GRACE_S = 1.2
"""The same while no epoch has been seen, and enough workers are there."""
EVIDENCE_GRACE_S = 6.0
"""The same when a gateway or a worker has seen an epoch that no pipeline explains."""


class Leadership:
    """Tells whether this planner plans. All times are monotonic seconds.

    Args:
        name, boot: identity of this planner.
        stages: exact number of stages of each pipeline; 0 when the planner chooses.
    """

    def __init__(self, name: str, boot: str, stages: int = 0) -> None:
        self._own = (name, boot)
        self._stages = stages
        self._connected_at: float | None = None
        self.leads = False

    def heard_for_s(self, now: float) -> float:
        """Seconds since discovery is connected; 0 while it is not."""
        return 0.0 if self._connected_at is None else now - self._connected_at

    def disconnect(self) -> None:
        """Records that discovery is silent. Workers may be alive unheard."""
        self._connected_at = None

    def update(
        self,
        now: float,
        saved: Sequence[Pipeline],
        workers: Sequence[Beacon],
        gateways: Sequence[Beacon],
        planners: Sequence[Beacon],
        is_complete: bool = True,
    ) -> bool:
        """Returns whether this planner plans now. Call it while discovery is connected.

        Args:
            saved: the pipelines of this planner.
            planners: all that are heard, this one too.
            is_complete: it knows all models that should be loaded.
        """
        if self._connected_at is None:
            self._connected_at = now
        others = [x for x in planners if (x.name, x.boot) != self._own and x.name != self._own[0]]
        if self.leads:
            self.leads = not any(self._precedes(x) for x in others if x.state == "ready")
        else:
            is_alone = not any(
                x.state == "ready" or (x.state == "starting" and self._precedes(x)) for x in others
            )
            has_heard = self._has_heard(now, saved, workers, gateways)
            self.leads = is_complete and is_alone and has_heard
        return self.leads

    def _precedes(self, other: Beacon) -> bool:
        return (other.name, other.boot) < self._own

    def _has_heard(
        self,
        now: float,
        saved: Sequence[Pipeline],
        workers: Sequence[Beacon],
        gateways: Sequence[Beacon],
    ) -> bool:
        heard_s = self.heard_for_s(now)
        placed = [pipeline for pipeline in saved if pipeline.stages]
        if placed and all(is_confirmed(pipeline, workers) for pipeline in placed):
            return True
        is_known = any(
            isinstance(x.facts, GatewayFacts) and x.facts.proven_epochs for x in gateways
        )
        unused = all(map(is_unused, workers))
        needed = self._stages or max((len(pipeline.stages) for pipeline in placed), default=0)
        if unused and 0 < needed <= len(workers):
            return heard_s >= (GRACE_S if is_known else UNUSED_GRACE_S)
        explained = bool(reported_pipelines(workers))
        return heard_s >= (GRACE_S if explained or (unused and not is_known) else EVIDENCE_GRACE_S)
