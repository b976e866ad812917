"""Chooses the guessed tokens that fill stages which would be idle: users and prompts go first."""

from __future__ import annotations

from collections.abc import Mapping

from pomona.messages.cache_ops import Op
from pomona_stage_worker.scheduler.kv_admission import KvAdmission
from pomona_stage_worker.scheduler.lanes import Lanes
from pomona_stage_worker.scheduler.request_queue import RequestQueue
from pomona_stage_worker.scheduler.sequence import InFlight, Lane
from pomona_stage_worker.scheduler.speculator import Speculator


class GuessSteps:
    """Finds the lane whose guesses go next, and room for them.

    Args:
        stages: stages of the pipeline.
        in_flight: the steps in the pipeline, by number; the scheduler's own.
    """

    def __init__(
        self,
        stages: int,
        speculator: Speculator,
        queue: RequestQueue,
        lanes: Lanes,
        kv: KvAdmission,
        in_flight: Mapping[int, InFlight],
    ) -> None:
        self._stages = stages
        self._speculator = speculator
        self._queue = queue
        self._lanes = lanes
        self._kv = kv
        self._in_flight = in_flight

    @property
    def is_idle_stage(self) -> bool:
        """True if no other work needs the next step: fewer lanes than stages run, no prompt is
        prefilled and no request waits."""
        return (
            self._speculator.can_guess
            and len(self._lanes) <= max(self._stages - 1, 1)
            and not self._queue
            and not self._kv.prefilling
        )

    def beside(self, lane: Lane) -> tuple[tuple[int, ...], list[Op]]:
        """Returns the guesses for a step that begins with the lane's last token, and ops that make
        room for them."""
        return self._guesses(lane, known=1) if self.is_idle_stage else ((), [])

    def next(self, now: float) -> tuple[Lane | None, tuple[int, ...], list[Op]]:
        """Returns the lane and the guesses for a step that has nothing else, and ops that make
        room for them. The lane is None if there is no such step."""
        ops: list[Op] = []
        if len(self._in_flight) >= self._stages or not self.is_idle_stage:
            return None, (), ops
        for lane in sorted(self._lanes, key=lambda lane: len(lane.steps)):
            if lane.is_stepping and not self._delays_another(lane, now):
                guesses, more = self._guesses(lane, known=0)
                ops += more
                if guesses:
                    return lane, guesses, ops
        return None, (), ops

    def _guesses(self, lane: Lane, known: int) -> tuple[tuple[int, ...], list[Op]]:
        """Returns the guesses for the next step of a lane; none if it goes faster without.

        Args:
            known: tokens of the step that are no guesses.
        """
        if len(lane.rows) != 1:
            return (), []
        row = lane.rows[0]
        depth, width = self._speculator.depth_and_width(row, len(self._lanes))
        if len(lane.steps) >= depth or width <= known:
            return (), []
        fits, ops = self._kv.reserve_guesses(width - known)
        return tuple(self._speculator.take(row, width - known)) if fits else (), ops

    def _delays_another(self, lane: Lane, now: float) -> bool:
        """Returns True if the first stage would still compute a guess when the result of another
        lane is expected."""
        policy = self._speculator.policy
        since = now + (policy.head_us - policy.round_us) / 1e6
        return any(
            self._in_flight[other.steps[0]].issued_at < since
            for other in self._lanes
            if other is not lane and other.is_stepping
        )
