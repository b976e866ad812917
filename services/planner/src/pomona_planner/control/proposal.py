"""Proposal of stages for a pipeline spec from the workers present; pure and without state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal

from pomona.messages.control import Beacon, Prediction, Stage, StageWorkerFacts
from pomona.models import ModelFacts
from pomona.models.draft_models import DRAFT_MODEL
from pomona_planner.cluster import from_beacons
from pomona_planner.cluster.worker_address import data_address
from pomona_planner.control.pins import Pin
from pomona_planner.cost_model.calibration import Calibration
from pomona_planner.cost_model.prediction import Plan, predict
from pomona_planner.cost_model.problem import Aim, Demand, Objective, Problem
from pomona_planner.solver.infeasible import Infeasible
from pomona_planner.solver.optimizer import OptimizedPlan, choose

MIN_CONTEXT = 1024
"""Minimum number of tokens whose cache must fit before a pipeline is formed."""

KEEP_GAIN = 0.15
"""Speed that other cuts must gain when a pipeline is formed again."""
BUSY_KEEP_GAIN = 0.5
"""The same while requests wait for it: other cuts have to be read from disk."""

Replan = Literal["propose", "idle", "always"]


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """Pipeline that the operator asks for.

    Attributes:
        source: name of the model that means the same on every node.
        stages: exact number of stages; 0 leaves it to the optimizer.
        context_length: maximum tokens of one request; 0 for the model's own limit.
        settle_s: seconds to wait for more workers when ``stages`` is 0.
        aim, floor: objective and throughput floor; see ``Aim``.
        users, promised_context: concurrent requests, and tokens of each, that must fit.
        required, excluded: names of nodes or workers that must, and must not, hold a stage.
        spread: every machine gets a stage, where the model can be cut so.
        pins: layers of nodes or workers, which hold while these are present.
        memory_limits: bytes that the operator allows a node or worker at most, by name.
        replan_gain: share of speed that a better plan must gain.
        replan: ``propose`` a better plan only, apply it when the model is ``idle``, or
            ``always``.
        review_interval_s: seconds between comparisons with the best plan.
        draft: small model that guesses tokens on the head; None for none.
        draft_source: name of it that means the same on every node.
        unused_drafts: why other sources of guesses are not used, by name.
    """

    source: str
    stages: int = 0
    context_length: int = 0
    cache_bits: int = 0
    settle_s: float = 2.0
    aim: Objective = "latency"
    floor: float = 0.25
    users: int = 1
    promised_context: int = MIN_CONTEXT
    required: frozenset[str] = frozenset()
    spread: bool = False
    excluded: frozenset[str] = frozenset()
    pins: tuple[Pin, ...] = ()
    memory_limits: Mapping[str, int] = field(default_factory=dict[str, int])
    replan_gain: float = 0.2
    replan: Replan = "propose"
    review_interval_s: float = 30.0
    draft: ModelFacts | None = None
    draft_source: str = ""
    unused_drafts: Mapping[str, str] = field(default_factory=dict[str, str])

    def why_unused(self, has_draft: bool) -> dict[str, str]:
        """Returns why sources of guesses are not used, by name.

        Args:
            has_draft: the draft model fits beside the head's stage.
        """
        if self.draft is None or has_draft:
            return dict(self.unused_drafts)
        reason = f"{self.draft_source}: no machine has the memory for it beside the first stage"
        return {**self.unused_drafts, DRAFT_MODEL: reason}


@dataclass(frozen=True, slots=True)
class Proposal:
    """Stages for a new epoch, or the reason why there are none.

    Attributes:
        has_draft: whether the draft model fits beside the head's stage.
    """

    stages: tuple[Stage, ...]
    prediction: Prediction | None = None
    reason: str = ""
    has_draft: bool = False


@dataclass(frozen=True, slots=True)
class Proposer:
    """Planner of one model for the beacons of one moment.

    Attributes:
        other_beacons: of discovery services and gateways.
        other_models: models whose memory the workers do not report as usable.
    """

    spec: PipelineSpec
    facts: ModelFacts
    calibration: Calibration
    other_beacons: Sequence[Beacon] = ()
    other_models: Sequence[str] = ()

    def propose(
        self,
        workers: Sequence[Beacon],
        waited_s: float,
        held: Sequence[Stage] = (),
        keep_gain: float = KEEP_GAIN,
    ) -> Proposal:
        """Chooses the best stages.

        Args:
            waited_s: seconds since the first worker appeared.
            held: stages of the last pipeline, which are kept unless the best ones are faster by
                the share ``keep_gain``: their weights are in memory.
        """
        usable = [worker for worker in workers if worker.state == "ready"]
        stages = self.spec.stages
        if stages and len(usable) < stages:
            names = ", ".join(worker.name for worker in usable) or "none"
            reason = f"{stages} stage workers are needed; present: {names}"
            return Proposal((), reason="; ".join([reason, *_unusable(workers)]))
        if not usable:
            return Proposal((), reason="no stage worker is present; start one on each node")
        if not stages and waited_s < self.spec.settle_s:
            return Proposal((), reason="waiting for more stage workers")
        problem, choice = self.best(usable)
        if not isinstance(choice, OptimizedPlan):
            unload = [f"unload {' or '.join(self.other_models)}"] if self.other_models else []
            return Proposal((), reason=_joined(choice.reason, [*unload, *choice.remedies]))
        kept = self._kept(problem, choice, held, keep_gain)
        chosen = self._proposal(self._candidates(usable), kept or choice)
        return replace(chosen, has_draft=problem.draft is not None)

    def aim(self) -> Aim:
        return Aim(self.spec.aim, self.spec.floor, self.spec.stages)

    def best(self, usable: Sequence[Beacon]) -> tuple[Problem, OptimizedPlan | Infeasible]:
        """Returns the planning problem of the workers that are ready, and its best plan.

        Where not every machine can hold a stage, the fastest plan is best; where the draft model
        does not fit beside the head's stage, a plan without it.
        """
        spec = self.spec
        wishes = [(spec.spread, spec.draft), (spec.spread, None), (False, spec.draft)]
        for spread, draft in [wish for wish in wishes if any(wish)]:
            problem = self._problem(usable, spread, draft)
            choice = choose(problem, self.aim())
            if isinstance(choice, OptimizedPlan):
                return problem, choice
        problem = self._problem(usable, spread=False, draft=None)
        return problem, choose(problem, self.aim())

    def _problem(self, usable: Sequence[Beacon], spread: bool, draft: ModelFacts | None) -> Problem:
        spec, facts = self.spec, self.facts
        workers = self._candidates(usable)
        pins = {
            worker.name: (pin.start, pin.stop)
            for pin in reversed(spec.pins)
            if (worker := next((w for w in workers if is_named(w, {pin.node})), None))
        }
        context = min(max(spec.promised_context, MIN_CONTEXT), facts.context_length)
        return Problem(
            facts,
            from_beacons.machines(workers, self.other_beacons, self.calibration),
            from_beacons.links(workers, self.other_beacons, self.calibration),
            Demand(context, spec.users, spec.cache_bits),
            cuts=facts.legal_cuts,
            required=frozenset(
                w.name for w in workers if spread or w.name in pins or is_named(w, spec.required)
            ),
            pins=pins,
            draft=draft,
            acceptance=self.calibration.acceptance,
        )

    def complete(self, prediction: Prediction) -> Prediction:
        """Adds the correction of links, which the problem does not contain."""
        return replace(prediction, link_correction=self.calibration.links)

    def _kept(
        self, problem: Problem, best: OptimizedPlan, held: Sequence[Stage], keep_gain: float
    ) -> OptimizedPlan | None:
        """Returns the plan of the held stages, if it still fits and is fast enough."""
        index = {machine.name: number for number, machine in enumerate(problem.machines)}
        names = {stage.worker for stage in held}
        if not held or not names <= index.keys() or not problem.required <= names:
            return None
        if self.spec.stages not in (0, len(held)) or held[-1].stop != self.facts.layer_count:
            return None
        if any(problem.pins.get(x.worker, (x.start, x.stop)) != (x.start, x.stop) for x in held):
            return None
        plan = Plan(
            tuple(index[stage.worker] for stage in held), (0, *(stage.stop for stage in held))
        )
        prediction = predict(problem, plan)
        needed = problem.demand.context * problem.demand.users
        is_fast = self.speed(prediction) * (1 + keep_gain) >= self.speed(best.prediction)
        if prediction.cache_tokens < needed or not is_fast:
            return None
        prediction = replace(prediction, notes=best.prediction.notes)
        return OptimizedPlan(plan, problem.machines, prediction, gap=0.0)

    def speed(self, prediction: Prediction) -> float:
        """Tokens per second that the aim is about."""
        if self.spec.aim == "latency":
            return prediction.tokens_per_second
        return prediction.users_tokens_per_second

    def _candidates(self, usable: Sequence[Beacon]) -> list[Beacon]:
        preferred = self.spec.required | {pin.node for pin in self.spec.pins}
        return from_beacons.candidates(usable, self.spec.stages, preferred)

    def _proposal(self, candidates: Sequence[Beacon], choice: OptimizedPlan) -> Proposal:
        workers = [candidates[node] for node in choice.plan.nodes]
        stages: list[Stage] = []
        for number, (worker, (_, start, stop)) in enumerate(
            zip(workers, choice.plan.stages(), strict=True)
        ):
            sender = workers[number - 1]
            address = data_address(worker, sender, self.other_beacons)
            if address is None:
                return Proposal(
                    (), reason=f"waiting for {sender.node} to measure its links to {worker.node}"
                )
            endpoint = worker.endpoints.get("data", "")
            stages.append(
                Stage(worker.name, start, stop, endpoint, address, worker.boot, worker.node)
            )
        return Proposal(tuple(stages), self.complete(choice.prediction))


def relaxed(spec: PipelineSpec, workers: int) -> PipelineSpec:
    """Returns the spec with at most as many stages as there are workers, while some are drained."""
    return replace(spec, stages=min(spec.stages, max(workers, 1)))


def is_named(worker: Beacon, names: Set[str]) -> bool:
    """Returns whether the names contain the worker or its node."""
    return worker.name in names or worker.node in names


def _unusable(workers: Sequence[Beacon]) -> list[str]:
    """Returns why workers that are present cannot be used."""
    return [
        f"{worker.name}: {worker.facts.unusable_reason}"
        for worker in workers
        if isinstance(worker.facts, StageWorkerFacts) and worker.facts.unusable_reason
    ]


def _joined(reason: str, remedies: Sequence[str]) -> str:
    return reason + (f"; {', or '.join(remedies)}" if remedies else "")
