"""What the plan should be, given who is there: pure, time is a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pomona.messages.control import (
    Beacon,
    GatewayFacts,
    Pipeline,
    Stage,
    StageStatus,
    StageWorkerFacts,
)
from pomona.models import ModelFacts
from pomona_planner.cluster.from_beacons import Calibration
from pomona_planner.cluster.worker_address import dead_way
from pomona_planner.control.proposal import PipelineSpec, Proposer, named
from pomona_planner.cost_model.calibration import learn
from pomona_planner.cost_model.prediction import Plan, Prediction, predict
from pomona_planner.cost_model.problem import Problem
from pomona_planner.solver.optimizer import OptimizedPlan, choose

RETRY_S = (5.0, 15.0, 60.0)
"""Seconds between attempts after a stage failed to load or a pipeline broke at once."""
RECUT_GAIN = 0.03
"""Share by which other cuts must shorten the busiest stage to be made before anybody is served."""


class PipelineController:
    """Keeps one model's pipeline right. The caller gives epochs and remembers them.

    A pipeline is replaced when one of its workers is gone or has started anew, when a
    stage reports that the epoch is broken, and, after a pause that grows, when a stage
    could not be loaded.
    """

    def __init__(self, wish: PipelineSpec, facts: ModelFacts, pipeline: Pipeline | None) -> None:
        self.pipeline = pipeline or self._impossible(0, wish, facts, "waiting for stage workers")
        self._wish = wish
        self._facts = facts
        self._first_seen: float | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._proposer = Proposer(wish, facts, Calibration())
        self._look_at = 0.0
        self._tried = pipeline is not None

    def decide(
        self,
        workers: Sequence[Beacon],
        next_epoch: int,
        now: float,
        others: Sequence[Beacon] = (),
        beside: Sequence[str] = (),
    ) -> Pipeline:
        """The pipeline as it should be; with ``next_epoch`` when it had to change.

        Args:
            others: beacons of discovery services and gateways, which tell of links,
                machines and running requests.
            beside: models whose memory ``workers`` do not count as usable.
        """
        self._proposer = replace(self._proposer, others=others, beside=beside)
        workers = [worker for worker in workers if not named(worker, self._wish.excluded)]
        if workers and self._first_seen is None:
            self._first_seen = now
        trouble = self._trouble(workers)
        if trouble is None:
            self.pipeline = self._with_state(workers)
            if self.pipeline.state == "active":
                if not self._tried:
                    self._tried = True
                    if self._cuts_better(workers):
                        why = "cut anew by what the stages' first steps took"
                        return self._change(workers, next_epoch, why, now)
                self._failures = 0
                return self._look_for_better(workers, next_epoch, now)
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
        first = now if self._first_seen is None else self._first_seen
        proposal = self._proposer.propose(workers, now - first)
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
                prediction=proposal.prediction,
            )
            self._look_at = now + self._wish.look_every_s
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
        return dead_way(self.pipeline.stages, by_name, self._proposer.others) or self._failed(
            workers
        )

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

    @staticmethod
    def _impossible(epoch: int, wish: PipelineSpec, facts: ModelFacts, reason: str) -> Pipeline:
        return Pipeline(
            facts.name, wish.source, epoch, facts.layer_count, "impossible", reason=reason
        )

    # What is measured --------------------------------------------------------------------

    def _look_for_better(self, workers: Sequence[Beacon], next_epoch: int, now: float) -> Pipeline:
        """Compare the plan with the best one that is known now, from time to time."""
        if now < self._look_at:
            return self.pipeline
        self._look_at = now + self._wish.look_every_s
        compared = self._compare(workers)
        if compared is None:
            return self.pipeline
        problem, present, choice = compared
        have, could = self._worth(present.prediction), self._worth(choice.prediction)
        names = [machine.name for machine in problem.machines]
        stages = self.pipeline.stages
        said = ""
        pins_kept = all(
            problem.pins.get(s.worker, (s.start, s.stop)) == (s.start, s.stop) for s in stages
        )
        pins_kept &= problem.pins.keys() <= {stage.worker for stage in stages}
        if could > have * (1 + self._wish.replan_gain) or not pins_kept:
            ranges = zip(choice.plan.nodes, choice.plan.bounds[1:], strict=True)
            ends = ", ".join(f"{names[node]} to layer {stop}" for node, stop in ranges)
            said = f"{could:.1f} tok/s instead of {have:.1f} with {ends}"
            said += "" if pins_kept else ", as the pins of the settings have it"
            idle = self._wish.replan == "idle" or not pins_kept
            if self._wish.replan == "always" or (idle and not self._is_running(workers)):
                return self._change(workers, next_epoch, f"a better plan: {said}", now)
        self.pipeline = replace(self.pipeline, proposal=said)
        return self.pipeline

    def _cuts_better(self, workers: Sequence[Beacon]) -> bool:
        """Whether other cuts of the same workers are worth it, before anybody is served; where
        they are not, the prediction is what was found now."""
        compared = self._compare(workers)
        if compared is None:
            return False
        _, present, choice = compared
        busiest = max(choice.prediction.stage_s) * (1 + RECUT_GAIN)
        if choice.plan.nodes == present.plan.nodes and max(present.prediction.stage_s) > busiest:
            return True
        self.pipeline = replace(self.pipeline, prediction=self._proposer.said(present))
        return False

    def _compare(
        self, workers: Sequence[Beacon]
    ) -> tuple[Problem, OptimizedPlan, OptimizedPlan] | None:
        """(the problem, the plan that runs, the best one), by what is measured now."""
        by_name = {worker.name: worker for worker in workers}
        stages = self.pipeline.stages
        statuses = [self._status(by_name[stage.worker], stage) for stage in stages]
        learn(self._proposer.learnt, self.pipeline, statuses)
        problem = self._proposer.problem([w for w in workers if w.state == "ready"])
        names = [machine.name for machine in problem.machines]
        if any(stage.worker not in names for stage in stages):
            return None
        best = choose(problem, self._proposer.aim())
        if not isinstance(best, OptimizedPlan):
            return None
        nodes = tuple(names.index(stage.worker) for stage in stages)
        plan = Plan(nodes, (0, *(stage.stop for stage in stages)))
        notes = self.pipeline.prediction.notes if self.pipeline.prediction else ()
        return (
            problem,
            OptimizedPlan(plan, problem.machines, predict(problem, plan), notes, 0.0),
            best,
        )

    def _worth(self, prediction: Prediction) -> float:
        if self._wish.aim == "latency":
            return prediction.tokens_per_second
        return prediction.users_tokens_per_second

    def _is_running(self, workers: Sequence[Beacon]) -> bool:
        gateways = [b.facts for b in self._proposer.others if isinstance(b.facts, GatewayFacts)]
        return any(g.running for g in gateways) or any(worker.queued for worker in workers)


def _facts(worker: Beacon) -> StageWorkerFacts:
    assert isinstance(worker.facts, StageWorkerFacts)
    return worker.facts
