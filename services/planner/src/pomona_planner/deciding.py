"""What the plan should be, given who is there: pure, time is a parameter."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal

from pomona.messages import control
from pomona.messages.control import (
    Beacon,
    GatewayFacts,
    Pipeline,
    Stage,
    StageStatus,
    StageWorkerFacts,
)
from pomona.models import ModelFacts
from pomona_planner import sight
from pomona_planner.choosing import Choice, choose
from pomona_planner.learning import learn
from pomona_planner.pins import Pin
from pomona_planner.predicting import Plan, Prediction, predict
from pomona_planner.problem import Aim, Demand, Objective, Problem
from pomona_planner.ways import address_of, dead_way

LEAST_CONTEXT = 1024
"""A pipeline that cannot cache this many tokens is not worth forming."""
RETRY_S = (5.0, 15.0, 60.0)
"""Seconds between attempts after a stage failed to load or a pipeline broke at once."""

Replan = Literal["propose", "idle", "always"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator wants.

    Attributes:
        source: where every worker finds the model: a name that means the same on each.
        stages: exactly so many; 0 for as many as are best.
        context_length: tokens of one request, at most; 0 for what the model can.
        aim, floor: what the plan is to be best at; see ``Aim``.
        users, promised_context: requests at once, and tokens of each, that must fit.
        required, excluded: nodes or workers that must, and must not, hold a stage.
        pins: layers that belong on a node or worker while it is there.
        replan_gain: share of speed that a better plan must bring.
        replan: whether it is only proposed, made when nothing runs, or made at once.
        look_every_s: seconds between looks for a better plan than the one that runs.
    """

    source: str
    stages: int = 0
    context_length: int = 0
    cache_bits: int = 0
    settle_s: float = 2.0
    aim: Objective = "latency"
    floor: float = 0.25
    users: int = 1
    promised_context: int = LEAST_CONTEXT
    required: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    pins: tuple[Pin, ...] = ()
    replan_gain: float = 0.2
    replan: Replan = "propose"
    look_every_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """Stages for a new epoch, or the reason why there are none."""

    stages: tuple[Stage, ...]
    cache_tokens: int = 0
    reason: str = ""
    prediction: control.Prediction | None = None


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
        self._others: Sequence[Beacon] = ()
        self._beside: Sequence[str] = ()
        self._learnt = sight.Learnt()
        self._look_at = 0.0

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
        self._others = others
        self._beside = beside
        workers = [worker for worker in workers if not self._named(worker, self._wish.excluded)]
        if workers and self._first_seen is None:
            self._first_seen = now
        trouble = self._trouble(workers)
        if trouble is None:
            self.pipeline = self._with_state(workers)
            if self.pipeline.state == "active":
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
        return dead_way(self.pipeline.stages, by_name, self._others) or self._failed(workers)

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
        choice = choose(self._problem(usable), self._aim())
        if not isinstance(choice, Choice):
            unload = [f"unload {' or '.join(self._beside)}"] if self._beside else []
            return Proposal((), reason=_joined(choice.reason, [*unload, *choice.remedies]))
        return self._proposal(self._candidates(usable), choice)

    def _aim(self) -> Aim:
        return Aim(self._wish.aim, self._wish.floor, self._wish.stages)

    def _problem(self, usable: Sequence[Beacon]) -> Problem:
        wish, facts = self._wish, self._facts
        chosen = self._candidates(usable)
        pinned = {
            worker.name: (pin.start, pin.stop)
            for pin in reversed(wish.pins)
            if (worker := next((w for w in chosen if self._named(w, {pin.node})), None))
        }
        context = min(max(wish.promised_context, LEAST_CONTEXT), facts.context_length)
        return Problem(
            facts,
            sight.machines(chosen, self._others, self._learnt),
            sight.links(chosen, self._others, self._learnt),
            Demand(context, wish.users, wish.cache_bits),
            cuts=facts.legal_cuts,
            required=frozenset(
                w.name for w in chosen if w.name in pinned or self._named(w, wish.required)
            ),
            pins=pinned,
        )

    def _candidates(self, usable: Sequence[Beacon]) -> list[Beacon]:
        named = self._wish.required | {pin.node for pin in self._wish.pins}
        return sight.candidates(usable, self._wish.stages, named)

    @staticmethod
    def _impossible(epoch: int, wish: Wish, facts: ModelFacts, reason: str) -> Pipeline:
        return Pipeline(
            facts.name, wish.source, epoch, facts.layer_count, "impossible", reason=reason
        )

    @staticmethod
    def _named(worker: Beacon, names: Set[str]) -> bool:
        return worker.name in names or worker.node in names

    def _proposal(self, chosen: Sequence[Beacon], choice: Choice) -> Proposal:
        plan = choice.plan
        workers = [chosen[node] for node in plan.nodes]
        stages: list[Stage] = []
        for number, worker in enumerate(workers):
            sender = workers[number - 1]
            address = address_of(worker, sender, self._others)
            if address is None:
                return Proposal(
                    (), reason=f"waiting for {sender.node} to find the best way to {worker.node}"
                )
            start, stop = plan.bounds[number : number + 2]
            endpoint = worker.endpoints.get("data", "")
            stages.append(Stage(worker.name, start, stop, endpoint, address))
        return Proposal(
            tuple(stages),
            choice.prediction.cache_tokens,
            prediction=self._said(choice),
        )

    def _said(self, choice: Choice) -> control.Prediction:
        found = choice.prediction
        return control.Prediction(
            tokens_per_second=found.tokens_per_second,
            ceiling_tokens_per_second=found.ceiling_tokens_per_second,
            users=found.users,
            users_tokens_per_second=found.users_tokens_per_second,
            prompt_tokens=found.prompt_tokens,
            first_token_s=found.first_token_s,
            cache_tokens=max(found.cache_tokens, 0),
            stage_us=tuple(seconds * 1e6 for seconds in found.stage_s),
            link_us=tuple(seconds * 1e6 for seconds in found.link_s),
            corrections=tuple(choice.machines[node].correction for node in choice.plan.nodes),
            link_correction=self._learnt.links,
            joules_per_token=found.joules_per_token,
            notes=choice.notes,
        )

    # What is measured --------------------------------------------------------------------

    def _look_for_better(self, workers: Sequence[Beacon], next_epoch: int, now: float) -> Pipeline:
        """Compare the plan with the best one that is known now, from time to time."""
        if now < self._look_at:
            return self.pipeline
        self._look_at = now + self._wish.look_every_s
        by_name = {worker.name: worker for worker in workers}
        statuses = [self._status(by_name[stage.worker], stage) for stage in self.pipeline.stages]
        learn(self._learnt, self.pipeline, statuses)
        usable = [worker for worker in workers if worker.state == "ready"]
        problem = self._problem(usable)
        names = [machine.name for machine in problem.machines]
        stages = self.pipeline.stages
        if any(stage.worker not in names for stage in stages):
            return self.pipeline
        choice = choose(problem, self._aim())
        if not isinstance(choice, Choice):
            return self.pipeline
        plan = Plan(
            tuple(names.index(stage.worker) for stage in stages),
            (0, *(stage.stop for stage in stages)),
        )
        have, could = (
            self._worth(prediction) for prediction in (predict(problem, plan), choice.prediction)
        )
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

    def _worth(self, prediction: Prediction) -> float:
        if self._wish.aim == "latency":
            return prediction.tokens_per_second
        return prediction.users_tokens_per_second

    def _is_running(self, workers: Sequence[Beacon]) -> bool:
        gateways = [b.facts for b in self._others if isinstance(b.facts, GatewayFacts)]
        return any(g.running for g in gateways) or any(worker.queued for worker in workers)


def _joined(reason: str, remedies: Sequence[str]) -> str:
    return reason + (f"; {', or '.join(remedies)}" if remedies else "")


def _facts(worker: Beacon) -> StageWorkerFacts:
    assert isinstance(worker.facts, StageWorkerFacts)
    return worker.facts
