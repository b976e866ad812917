"""What the plan should be, given who is there: pure, time is a parameter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pomona.messages.control import Beacon, Pipeline, Stage, StageStatus, StageWorkerFacts
from pomona.models import ModelFacts
from pomona_planner.cutting import Seat, cut, weight_bytes

LEAST_CONTEXT = 1024
"""A pipeline that cannot cache this many tokens is not worth forming."""
RETRY_S = (5.0, 15.0, 60.0)
"""Seconds between attempts after a stage failed to load or a pipeline broke at once."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator wants. ``stages`` 0 means as few as hold the model."""

    source: str
    stages: int = 0
    context_length: int = 0
    cache_bits: int = 0
    settle_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """Stages for a new epoch, or the reason why there are none."""

    stages: tuple[Stage, ...]
    cache_tokens: int = 0
    reason: str = ""


class Decider:
    """Keeps one model's pipeline right. The caller gives epochs and remembers them.

    A pipeline is replaced when one of its workers is gone or has started anew, when a
    stage reports that the epoch is broken, and, after a pause that grows, when a stage
    could not be loaded.
    """

    def __init__(self, wish: Wish, facts: ModelFacts, pipeline: Pipeline | None) -> None:
        self.pipeline = pipeline or self._impossible(0, wish, facts, "waiting for stage workers")
        self._wish = wish
        self._facts = facts
        self._first_seen: float | None = None
        self._failures = 0
        self._retry_at = 0.0

    def decide(self, workers: Sequence[Beacon], next_epoch: int, now: float) -> Pipeline:
        """The pipeline as it should be; with ``next_epoch`` when it had to change."""
        if workers and self._first_seen is None:
            self._first_seen = now
        trouble = self._trouble(workers)
        if trouble is None:
            self.pipeline = self._with_state(workers)
            if self.pipeline.state == "active":
                self._failures = 0
            return self.pipeline
        failed = self._failed(workers)
        if failed is not None:
            if self._retry_at <= now:
                if self._retry_at:
                    self._retry_at = 0.0
                    return self._change(workers, next_epoch, failed, now)
                pause = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
                self._failures += 1
                self._retry_at = now + pause
            self.pipeline = replace(self.pipeline, state="forming", reason=failed)
            return self.pipeline
        return self._change(workers, next_epoch, trouble, now)

    def _change(self, workers: Sequence[Beacon], next_epoch: int, why: str, now: float) -> Pipeline:
        proposal = self._propose(workers, now)
        if proposal.stages:
            facts, wish = self._facts, self._wish
            self.pipeline = Pipeline(
                model=facts.name,
                source=wish.source,
                epoch=next_epoch,
                layer_count=facts.layer_count,
                state="forming",
                stages=proposal.stages,
                context_length=min(
                    wish.context_length or facts.context_length, facts.context_length
                ),
                cache_tokens=proposal.cache_tokens,
                vocab_size=facts.vocab_size,
                cache_bits=wish.cache_bits,  # type: ignore[arg-type]  # the settings check it
                reason=why,
            )
        elif self.pipeline.stages:
            self.pipeline = self._impossible(next_epoch, self._wish, self._facts, proposal.reason)
        else:
            self.pipeline = replace(self.pipeline, reason=proposal.reason)
        return self.pipeline

    def _trouble(self, workers: Sequence[Beacon]) -> str | None:
        """Why the pipeline cannot stay as it is."""
        if not self.pipeline.stages:
            return self.pipeline.reason
        by_name = {worker.name: worker for worker in workers}
        for stage in self.pipeline.stages:
            worker = by_name.get(stage.worker)
            if worker is None:
                return f"{stage.worker} is gone"
            if worker.endpoints.get("data") != stage.endpoint:
                return f"{stage.worker} has started anew"
            facts = _facts(worker)
            if facts.broken_epoch == self.pipeline.epoch:
                return f"{stage.worker}: {facts.broken_reason}"
        return self._failed(workers)

    def _failed(self, workers: Sequence[Beacon]) -> str | None:
        """A stage that cannot be loaded, while all workers are there."""
        by_name = {worker.name: worker for worker in workers}
        for stage in self.pipeline.stages:
            worker = by_name.get(stage.worker)
            if worker is None or worker.endpoints.get("data") != stage.endpoint:
                return None
            if _facts(worker).broken_epoch == self.pipeline.epoch:
                return None
            status = self._status(worker, stage)
            if status is not None and status.state == "failed":
                return f"{stage.worker}: {status.error}"
        return None

    def _with_state(self, workers: Sequence[Beacon]) -> Pipeline:
        by_name = {worker.name: worker for worker in workers}
        statuses = [self._status(by_name[s.worker], s) for s in self.pipeline.stages]
        if all(status is not None and status.state == "ready" for status in statuses):
            return replace(self.pipeline, state="active", reason="")
        return replace(self.pipeline, state="forming")

    def _status(self, worker: Beacon, stage: Stage) -> StageStatus | None:
        for status in _facts(worker).stages:
            if status.epoch == self.pipeline.epoch and status.start == stage.start:
                return status
        return None

    def _propose(self, workers: Sequence[Beacon], now: float) -> Proposal:
        usable = [w for w in workers if w.state == "ready"]
        wanted = self._wish.stages
        if wanted and len(usable) < wanted:
            names = ", ".join(w.name for w in usable) or "none"
            return Proposal((), reason=f"{wanted} stage workers are wanted; there: {names}")
        if not usable:
            return Proposal((), reason="no stage worker is there; start one on each node")
        first = now if self._first_seen is None else self._first_seen
        if not wanted and now - first < self._wish.settle_s:
            return Proposal((), reason="waiting for more stage workers")
        if wanted > self._facts.layer_count:
            return Proposal(
                (),
                reason=f"{wanted} stages are wanted of a model of {self._facts.layer_count} layers",
            )
        context = min(LEAST_CONTEXT, self._facts.context_length)
        for count in [wanted] if wanted else range(1, len(usable) + 1):
            seats = _seats(usable, count)
            found = cut(self._facts, seats, context, self._wish.cache_bits)
            if found is not None:
                stages = tuple(
                    Stage(seat.worker, found.bounds[i], found.bounds[i + 1], seat.endpoint)
                    for i, seat in enumerate(seats)
                )
                return Proposal(stages, found.cache_tokens)
        return Proposal((), reason=self._what_is_missing(usable))

    def _what_is_missing(self, workers: Sequence[Beacon]) -> str:
        seats = _seats(workers, len(workers))
        whole = any(seat.whole_precision for seat in seats)
        need = weight_bytes(self._facts, 0, self._facts.layer_count, whole)
        have = sum(seat.memory_bytes for seat in seats)
        return (
            f"{self._facts.name} does not fit: its weights take {need / 1e9:.1f} GB and each "
            f"stage needs room for caches, but {len(seats)} stage workers have "
            f"{have / 1e9:.1f} GB in all; add a node or take a smaller model"
        )

    @staticmethod
    def _impossible(epoch: int, wish: Wish, facts: ModelFacts, reason: str) -> Pipeline:
        return Pipeline(
            facts.name, wish.source, epoch, facts.layer_count, "impossible", reason=reason
        )


def _seats(workers: Sequence[Beacon], count: int) -> list[Seat]:
    """Seats for ``count`` stages, the largest machines first; one machine's workers share it."""
    chosen = sorted(workers, key=lambda w: (-_facts(w).usable_memory_bytes, w.name))[:count]
    chosen.sort(key=lambda w: w.name)
    on_node = Counter(worker.node for worker in chosen)
    return [
        Seat(
            worker.name,
            worker.endpoints.get("data", ""),
            _facts(worker).usable_memory_bytes // on_node[worker.node],
            _facts(worker).device == "cpu",
        )
        for worker in chosen
    ]


def _facts(worker: Beacon) -> StageWorkerFacts:
    assert isinstance(worker.facts, StageWorkerFacts)
    return worker.facts
