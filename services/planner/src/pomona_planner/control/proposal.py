"""Which stages a wish comes to, given who is there: pure, and nothing is remembered here."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal

from pomona.messages.control import Beacon, Prediction, Stage
from pomona.models import ModelFacts
from pomona_planner.cluster import from_beacons
from pomona_planner.cluster.worker_address import address_of
from pomona_planner.control.pins import Pin
from pomona_planner.cost_model.problem import Aim, Demand, Objective, Problem
from pomona_planner.solver.optimizer import OptimizedPlan, choose

LEAST_CONTEXT = 1024
"""A pipeline that cannot cache this many tokens is not worth forming."""

Replan = Literal["propose", "idle", "always"]


@dataclass(frozen=True, slots=True)
class PipelineSpec:
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
    prediction: Prediction | None = None


@dataclass(frozen=True, slots=True)
class Proposer:
    """Attributes:
    others: beacons of discovery services and gateways.
    beside: models whose memory the workers do not count as usable.
    """

    wish: PipelineSpec
    facts: ModelFacts
    learnt: from_beacons.Calibration
    others: Sequence[Beacon] = ()
    beside: Sequence[str] = ()

    def propose(self, workers: Sequence[Beacon], waited_s: float) -> Proposal:
        """Args: waited_s: since the first worker was seen, seconds."""
        usable = [w for w in workers if w.state == "ready"]
        wanted = self.wish.stages
        if wanted and len(usable) < wanted:
            names = ", ".join(w.name for w in usable) or "none"
            return Proposal((), reason=f"{wanted} stage workers are wanted; there: {names}")
        if not usable:
            return Proposal((), reason="no stage worker is there; start one on each node")
        if not wanted and waited_s < self.wish.settle_s:
            return Proposal((), reason="waiting for more stage workers")
        choice = choose(self.problem(usable), self.aim())
        if not isinstance(choice, OptimizedPlan):
            unload = [f"unload {' or '.join(self.beside)}"] if self.beside else []
            return Proposal((), reason=_joined(choice.reason, [*unload, *choice.remedies]))
        return self._proposal(self._candidates(usable), choice)

    def aim(self) -> Aim:
        return Aim(self.wish.aim, self.wish.floor, self.wish.stages)

    def problem(self, usable: Sequence[Beacon]) -> Problem:
        wish, facts = self.wish, self.facts
        chosen = self._candidates(usable)
        pinned = {
            worker.name: (pin.start, pin.stop)
            for pin in reversed(wish.pins)
            if (worker := next((w for w in chosen if named(w, {pin.node})), None))
        }
        context = min(max(wish.promised_context, LEAST_CONTEXT), facts.context_length)
        return Problem(
            facts,
            from_beacons.machines(chosen, self.others, self.learnt),
            from_beacons.links(chosen, self.others, self.learnt),
            Demand(context, wish.users, wish.cache_bits),
            cuts=facts.legal_cuts,
            required=frozenset(
                w.name for w in chosen if w.name in pinned or named(w, wish.required)
            ),
            pins=pinned,
        )

    def _candidates(self, usable: Sequence[Beacon]) -> list[Beacon]:
        named = self.wish.required | {pin.node for pin in self.wish.pins}
        return from_beacons.candidates(usable, self.wish.stages, named)

    def _proposal(self, chosen: Sequence[Beacon], choice: OptimizedPlan) -> Proposal:
        plan = choice.plan
        workers = [chosen[node] for node in plan.nodes]
        stages: list[Stage] = []
        for number, worker in enumerate(workers):
            sender = workers[number - 1]
            address = address_of(worker, sender, self.others)
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
            prediction=self.said(choice),
        )

    def said(self, choice: OptimizedPlan) -> Prediction:
        """A choice's prediction as the plan's message tells it."""
        found = choice.prediction
        return Prediction(
            tokens_per_second=found.tokens_per_second,
            ceiling_tokens_per_second=found.ceiling_tokens_per_second,
            users=found.users,
            users_tokens_per_second=found.users_tokens_per_second,
            prompt_tokens=found.prompt_tokens,
            first_token_s=found.first_token_s,
            cache_tokens=max(found.cache_tokens, 0),
            stage_us=tuple(seconds * 1e6 for seconds in found.stage_s),
            tail_us=found.tail_s * 1e6,
            link_us=tuple(seconds * 1e6 for seconds in found.link_s),
            corrections=tuple(choice.machines[node].correction for node in choice.plan.nodes),
            tail_correction=self.learnt.tail or 1.0,
            link_correction=self.learnt.links,
            joules_per_token=found.joules_per_token,
            notes=choice.notes,
        )


def named(worker: Beacon, names: Set[str]) -> bool:
    return worker.name in names or worker.node in names


def _joined(reason: str, remedies: Sequence[str]) -> str:
    return reason + (f"; {', or '.join(remedies)}" if remedies else "")
