"""Control of one model's pipeline: when it needs a new epoch, and with which stages.

Pure: beacons and the time are parameters.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

from pomona.leases import LEASE_S
from pomona.messages.control import (
    Beacon,
    GatewayFacts,
    Pipeline,
    Stage,
    StageStatus,
    StageWorkerFacts,
)
from pomona.models import ModelFacts
from pomona_planner.cluster.worker_address import dead_address
from pomona_planner.control.adoption import adopted, obeyed_epoch, reported_pipelines
from pomona_planner.control.drains import DrainForecast, names_stage
from pomona_planner.control.load_retries import LoadRetries
from pomona_planner.control.load_times import LoadTimes
from pomona_planner.control.lost_workers import LostWorkers, is_set_aside
from pomona_planner.control.placement import spec_fault
from pomona_planner.control.proposal import (
    BUSY_KEEP_GAIN,
    KEEP_GAIN,
    PipelineSpec,
    Proposer,
    is_named,
    relaxed,
)
from pomona_planner.cost_model.calibration import Calibration
from pomona_planner.cost_model.prediction import Plan, predict
from pomona_planner.cost_model.problem import Problem
from pomona_planner.solver.optimizer import OptimizedPlan

RECUT_GAIN = 0.03
"""Share by which new cuts must shorten the busiest stage to be applied before serving."""


class PipelineController:
    """Controller of one model's pipeline. The caller supplies the epochs and stores them.

    It replaces a pipeline when one of its workers is gone or has restarted, when a stage
    reports that the epoch is broken, when a better address or plan is found, and, after a
    growing pause, when a stage failed to load.

    Attributes:
        pipeline: as last decided.
    """

    def __init__(self, spec: PipelineSpec, facts: ModelFacts, saved: Pipeline | None) -> None:
        """Args: saved: the pipeline of an earlier planner process, which is adopted."""
        self._spec = spec
        self._facts = facts
        self.pipeline = saved or self._impossible(0, "waiting for stage workers")
        self._proposer = Proposer(spec, facts, Calibration())
        self._load_retries = LoadRetries()
        self._first_worker_at: float | None = None
        self._next_review_at = 0.0
        self._considered: Set[str] = frozenset()
        self._recut_considered = saved is not None
        self._stale_since: float | None = None
        self._lost_workers = LostWorkers()
        self._held = self.pipeline.stages
        self._drained: Set[str] = frozenset()
        self._load_times = LoadTimes(facts)
        self._spec_fault = ""

    def decide(
        self,
        workers: Sequence[Beacon],
        next_epoch: int,
        now: float,
        other_beacons: Sequence[Beacon] = (),
        other_models: Sequence[str] = (),
        drained: Set[str] = frozenset(),
    ) -> Pipeline:
        """Returns the pipeline as it should be, with ``next_epoch`` if it had to change.

        Args:
            now: monotonic time, seconds.
            other_beacons: of discovery services and gateways, for links, machines and
                running requests.
            other_models: models whose memory ``workers`` do not report as usable.
            drained: names of nodes or workers that are planned without.
        """
        if drained != self._drained:
            self._drained, self._next_review_at = drained, now
        workers = self._usable(workers, drained)
        self._proposer = replace(
            self._proposer,
            spec=relaxed(self._spec, len(workers)) if drained else self._spec,
            other_beacons=other_beacons,
            other_models=other_models,
        )
        if workers and self._first_worker_at is None:
            self._first_worker_at = now
        planned = {stage.worker for stage in self.pipeline.stages}
        ready = {worker.name for worker in workers if worker.state == "ready"}
        if self._spec.spread and ready - planned - self._considered:
            # A machine that has come gets a stage as soon as the pipeline is idle.
            self._next_review_at = min(self._next_review_at, now + self._spec.settle_s)
        self._considered = ready
        present = {worker.name for worker in workers} | self._planned_without()
        lost = self._lost_workers.update(planned, present, now)
        reason = self._reason_to_replan(workers, now)
        if reason is not None:
            self._replan(workers, next_epoch, reason, now, lost)
        return self.pipeline

    def forecast(
        self, workers: Sequence[Beacon], drained: Set[str]
    ) -> tuple[DrainForecast, Pipeline]:
        """Forecasts what planning without some nodes comes to.

        Args:
            workers: all that are present.
            drained: names of nodes or workers.

        Returns:
            The forecast, and the pipeline as it would be.
        """
        now = self.pipeline
        if not any(names_stage(stage, drained) for stage in now.stages):
            return DrainForecast(), now
        others = self._usable(workers, drained)
        proposer = replace(self._proposer, spec=relaxed(self._spec, len(others)))
        proposal = proposer.propose(others, self._spec.settle_s, now.stages)
        if proposal.prediction is None:
            own = [stage for stage in now.stages if names_stage(stage, drained)]
            pause_s = self._load_times.pause_s((), own, workers)
            return DrainForecast(f"{now.model}: {proposal.reason}", pause_s), now
        pause_s = self._load_times.pause_s(now.stages, proposal.stages, workers)
        return DrainForecast(pause_s=pause_s), replace(now, stages=proposal.stages)

    def _usable(self, workers: Sequence[Beacon], drained: Set[str]) -> list[Beacon]:
        without = self._spec.excluded | drained
        return [worker for worker in workers if not is_named(worker, without)]

    def _planned_without(self) -> Set[str]:
        """Names of the pipeline's workers that are drained or excluded."""
        without = self._drained | self._spec.excluded
        return {x.worker for x in self.pipeline.stages if names_stage(x, without)}

    def change_spec(self, spec: PipelineSpec) -> None:
        """Follows another spec of the same model from the next decision on."""
        before, self._spec = self._spec, spec
        if spec != before:
            self._next_review_at = 0.0
            self._spec_fault = spec_fault(before, spec, self.pipeline.stages)

    def why_not(self, spec: PipelineSpec, workers: Sequence[Beacon]) -> str:
        """Returns why this spec would end the pipeline; empty when it would not."""
        without = spec.excluded | self._drained
        others = [worker for worker in workers if not is_named(worker, without)]
        spec = relaxed(spec, len(others)) if self._drained else spec
        proposal = replace(self._proposer, spec=spec).propose(others, spec.settle_s)
        ends = self.pipeline.stages and proposal.prediction is None
        return f"{self._facts.name} could not run: {proposal.reason}" if ends else ""

    def adopt(self, workers: Sequence[Beacon]) -> None:
        """Continues the pipeline that the workers run, if they run a later one than this."""
        workers = [worker for worker in workers if not is_named(worker, self._spec.excluded)]
        found = adopted(self.pipeline, reported_pipelines(workers))
        if found is not None:
            self.pipeline = found
            self._held = found.stages
            self._recut_considered = True
            self._stale_since = None

    def limit_cache_tokens(self, limit: int | None) -> Pipeline:
        """Limits the caches to a share of the memory under the same epoch.

        Args:
            limit: tokens; None removes the limit.
        """
        if self.pipeline.prediction is not None:
            predicted = self.pipeline.prediction.cache_tokens
            tokens = predicted if limit is None else min(predicted, limit)
            self.pipeline = replace(self.pipeline, cache_tokens=tokens)
        return self.pipeline

    # Why to replan -----------------------------------------------------------------------

    def _reason_to_replan(self, workers: Sequence[Beacon], now: float) -> str | None:
        """Returns why a new epoch is needed; otherwise updates the state of this one."""
        load_error = self._load_error(workers)
        if load_error is not None:
            if self._load_retries.is_due(now):
                return load_error
            self.pipeline = replace(self.pipeline, state="forming", reason=load_error)
            return None
        fault = self._fault(workers) or self._spec_fault or self._stale_epoch(workers, now)
        self._spec_fault = ""
        if fault is not None:
            return fault
        self.pipeline = self._with_state(workers)
        if self.pipeline.state != "active":
            return None
        self._load_times.finish(now)
        if not self._recut_considered:
            self._recut_considered = True
            if self._recut_pays(workers):
                self._held = ()
                return "layers are cut again by the measured time of the stages' first steps"
        self._load_retries.reset()
        return self._better_plan(workers, now)

    def _load_error(self, workers: Sequence[Beacon]) -> str | None:
        """Returns the error of a stage that failed to load.

        None when a worker before it is gone, which needs a new epoch at once.
        """
        by_name = {worker.name: worker for worker in workers}
        for stage in self.pipeline.stages:
            worker = by_name.get(stage.worker)
            if worker is None or self._worker_fault(worker, stage) is not None:
                return None
            status = self._status(worker, stage)
            if status is not None and status.state == "failed":
                return f"{stage.worker}: {status.error}"
        return None

    def _fault(self, workers: Sequence[Beacon]) -> str | None:
        """Returns why the pipeline cannot stay as it is."""
        if not self.pipeline.stages:
            return self.pipeline.reason
        by_name = {worker.name: worker for worker in workers}
        for stage in self.pipeline.stages:
            worker = by_name.get(stage.worker)
            if worker is None:
                is_excluded = names_stage(stage, self._spec.excluded)
                is_drained = names_stage(stage, self._drained)
                why = "is excluded" if is_excluded else "is drained" if is_drained else "is gone"
                return f"{stage.worker} {why}"
            fault = self._worker_fault(worker, stage)
            if fault is not None:
                return fault
        return dead_address(self.pipeline.stages, by_name, self._proposer.other_beacons)

    def _stale_epoch(self, workers: Sequence[Beacon], now: float) -> str | None:
        """Returns that a worker has obeyed a later plan for a lease, unless it was adopted."""
        source, stages = self.pipeline.source, {stage.worker for stage in self.pipeline.stages}
        obeyed = [obeyed_epoch(source, worker) for worker in workers if worker.name in stages]
        if max(obeyed, default=0) <= self.pipeline.epoch:
            self._stale_since = None
            return None
        if self._stale_since is None:
            self._stale_since = now
        if now - self._stale_since < LEASE_S:
            return None
        self._stale_since = None
        return f"a worker has obeyed epoch {max(obeyed)} of another planner"

    def _worker_fault(self, worker: Beacon, stage: Stage) -> str | None:
        is_same = stage.boot in ("", worker.boot)
        if not is_same or worker.endpoints.get("data") != stage.endpoint:
            return f"{stage.worker} has restarted"
        facts = _facts(worker)
        if facts.broken_epoch == self.pipeline.epoch:
            return f"{stage.worker}: {facts.broken_reason}"
        return None

    def _with_state(self, workers: Sequence[Beacon]) -> Pipeline:
        statuses = self._statuses(workers)
        if all(status is not None and status.state == "ready" for status in statuses):
            return replace(self.pipeline, state="active", reason="")
        return replace(self.pipeline, state="forming")

    # New epochs --------------------------------------------------------------------------

    def _replan(
        self,
        workers: Sequence[Beacon],
        next_epoch: int,
        reason: str,
        now: float,
        lost: Set[str],
    ) -> None:
        """Forms the pipeline again, without lost workers only when they stay away.

        Workers that stall again and again are used only if there is no plan without them.
        """
        waited_s = 0.0 if self._first_worker_at is None else now - self._first_worker_at
        trusted = [worker for worker in workers if not is_set_aside(worker)]
        gain = BUSY_KEEP_GAIN if self._is_busy(workers) else KEEP_GAIN
        proposal = self._proposer.propose(trusted, waited_s, self._held, gain)
        if proposal.prediction is None and len(trusted) < len(workers):
            proposal = self._proposer.propose(workers, waited_s, self._held, gain)
        if proposal.prediction is not None and self._lost_workers.may_return(lost, now):
            self.pipeline = replace(
                self.pipeline, state="forming", reason=f"{reason}; it may be restarting"
            )
        elif proposal.prediction is not None:
            used = {stage.worker for stage in proposal.stages}
            limit, limited_by = min(
                (
                    (limit, worker.name)
                    for worker in workers
                    if worker.name in used and (limit := _facts(worker).prompt_limit)
                ),
                default=(0, ""),
            )
            self._lost_workers.plan_around(lost | self._planned_without(), used)
            self._load_times.begin(self.pipeline.stages, proposal.stages, workers, now)
            facts, spec = self._facts, self._spec
            self.pipeline = Pipeline(
                model=facts.name,
                source=spec.source,
                epoch=next_epoch,
                layer_count=facts.layer_count,
                state="forming",
                stages=proposal.stages,
                context_length=min(
                    spec.context_length or facts.context_length, facts.context_length
                ),
                cache_tokens=proposal.prediction.cache_tokens,
                vocab_size=facts.vocab_size,
                cache_bits=spec.cache_bits,  # type: ignore[arg-type]  # the settings check it
                reason=reason,
                prediction=proposal.prediction,
                draft_source=spec.draft_source if proposal.has_draft else "",
                unused_drafts=spec.why_unused(proposal.has_draft),
                prompt_limit=limit,
                prompt_limit_reason=f"{limited_by} died of longer ones" if limit else "",
            )
            self._held = proposal.stages
            self._next_review_at = now + spec.review_interval_s
        else:
            without = f"without {', '.join(sorted(self._drained))}: " if self._drained else ""
            why = f"{without}{proposal.reason}"
            self.pipeline = (
                self._impossible(next_epoch, why)
                if self.pipeline.stages
                else replace(self.pipeline, reason=why)
            )

    def _impossible(self, epoch: int, reason: str) -> Pipeline:
        facts = self._facts
        return Pipeline(
            facts.name, self._spec.source, epoch, facts.layer_count, "impossible", reason=reason
        )

    # Measured costs ----------------------------------------------------------------------

    def _better_plan(self, workers: Sequence[Beacon], now: float) -> str | None:
        """Compares the pipeline with the best plan once per review interval.

        Returns the reason to apply the best plan now; otherwise records it as a proposal if it
        gains enough.
        """
        if now < self._next_review_at:
            return None
        self._next_review_at = now + self._spec.review_interval_s
        compared = self._compare(workers)
        if compared is None:
            return None
        problem, current, best = compared
        speed, best_speed = (
            self._proposer.speed(current.prediction),
            self._proposer.speed(best.prediction),
        )
        pins_kept = self._keeps_pins(problem)
        used = {problem.machines[node].name for node in best.plan.nodes}
        takes_back = bool(used & self._lost_workers.planned_around)
        gain = RECUT_GAIN if takes_back else self._spec.replan_gain
        proposal = ""
        if best_speed > speed * (1 + gain) or not pins_kept:
            ends = ", ".join(
                f"{problem.machines[node].name} to layer {stop}"
                for node, _, stop in best.plan.stages()
            )
            proposal = f"{best_speed:.1f} tok/s instead of {speed:.1f} with {ends}"
            proposal += "" if pins_kept else self._why_required(problem)
            when_idle = self._spec.replan == "idle" or not pins_kept or takes_back
            if self._spec.replan == "always" or (when_idle and not self._is_busy(workers)):
                self._held = ()
                return f"a better plan: {proposal}"
        self.pipeline = replace(self.pipeline, proposal=proposal)
        return None

    def _recut_pays(self, workers: Sequence[Beacon]) -> bool:
        """Returns whether other cuts on the same workers gain ``RECUT_GAIN`` before serving.

        If not, the prediction is updated to the measured costs.
        """
        compared = self._compare(workers)
        if compared is None:
            return False
        _, current, best = compared
        limit_us = max(best.prediction.stage_us) * (1 + RECUT_GAIN)
        if best.plan.nodes == current.plan.nodes and max(current.prediction.stage_us) > limit_us:
            return True
        prediction = self._proposer.complete(current.prediction)
        self.pipeline = replace(self.pipeline, prediction=prediction)
        return False

    def _compare(
        self, workers: Sequence[Beacon]
    ) -> tuple[Problem, OptimizedPlan, OptimizedPlan] | None:
        """Returns the problem at the measured costs, the current plan and the best plan.

        None when a worker of the pipeline is not ready or no plan fits.
        """
        stages = self.pipeline.stages
        self._proposer.calibration.update(self.pipeline, self._statuses(workers))
        used = {stage.worker for stage in stages}
        problem, best = self._proposer.best(
            [w for w in workers if w.state == "ready" and (w.name in used or not is_set_aside(w))]
        )
        names = [machine.name for machine in problem.machines]
        if any(stage.worker not in names for stage in stages):
            return None
        if not isinstance(best, OptimizedPlan):
            return None
        nodes = tuple(names.index(stage.worker) for stage in stages)
        plan = Plan(nodes, (0, *(stage.stop for stage in stages)))
        notes = self.pipeline.prediction.notes if self.pipeline.prediction else ()
        prediction = replace(predict(problem, plan), notes=notes)
        return problem, OptimizedPlan(plan, problem.machines, prediction, gap=0.0), best

    def _keeps_pins(self, problem: Problem) -> bool:
        """Returns whether there are as many stages as the settings demand, and every worker that
        must hold a stage does, with the layers of its pin."""
        if self._proposer.spec.stages not in (0, len(self.pipeline.stages)):
            return False
        held = {stage.worker: (stage.start, stage.stop) for stage in self.pipeline.stages}
        return problem.required <= held.keys() and all(
            held.get(worker) == layers for worker, layers in problem.pins.items()
        )

    def _why_required(self, problem: Problem) -> str:
        if self._proposer.spec.stages not in (0, len(self.pipeline.stages)):
            return f", since {self._proposer.spec.stages} stages are set"
        pinned = problem.required <= set(problem.pins)
        return ", as the pins require" if pinned else ", so that every machine holds a stage"

    def _is_busy(self, workers: Sequence[Beacon]) -> bool:
        others = self._proposer.other_beacons
        gateways = [b.facts for b in others if isinstance(b.facts, GatewayFacts)]
        return any(g.running for g in gateways) or any(worker.queued for worker in workers)

    def _statuses(self, workers: Sequence[Beacon]) -> list[StageStatus | None]:
        """Returns the status of each stage; all its workers must be present."""
        by_name = {worker.name: worker for worker in workers}
        return [self._status(by_name[stage.worker], stage) for stage in self.pipeline.stages]

    def _status(self, worker: Beacon, stage: Stage) -> StageStatus | None:
        for status in _facts(worker).stages:
            if status.epoch == self.pipeline.epoch and status.start == stage.start:
                return status
        return None


def _facts(worker: Beacon) -> StageWorkerFacts:
    assert isinstance(worker.facts, StageWorkerFacts)
    return worker.facts
