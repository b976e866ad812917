"""The plan of all models: adopts what the workers run, and decides on every pipeline.

Pure except for the state file: leases and the time are parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from pomona.leases import LeaseTable
from pomona.messages.control import Pipeline
from pomona.messages.placement import Placement
from pomona.models import ModelFacts
from pomona_planner.control.adoption import reported_pipelines
from pomona_planner.control.drains import DrainForecast
from pomona_planner.control.epochs import next_epoch
from pomona_planner.control.leadership import GRACE_S, Leadership
from pomona_planner.control.pipeline_controller import PipelineController
from pomona_planner.control.placement import limited_workers, placed_spec
from pomona_planner.control.proposal import PipelineSpec
from pomona_planner.control.state_files import PlanFile
from pomona_planner.cost_model.cache_sharing import (
    PlacedModel,
    fair_cache_tokens,
    subtract_placed_models,
)


@dataclass(frozen=True, slots=True)
class _PlannedModel:
    controller: PipelineController
    facts: ModelFacts
    spec: PipelineSpec


class PlanControl:
    """A controller for each model. All share one sequence of epochs, so that an epoch identifies
    a pipeline.

    Args:
        name: name of this planner in the cluster.
        on_change: called with a pipeline before and after each change, once the file has it.
    """

    def __init__(
        self,
        plan_file: PlanFile,
        leadership: Leadership,
        name: str,
        on_change: Callable[[Pipeline, Pipeline], None],
    ) -> None:
        self._file = plan_file
        self._saved = {pipeline.source: pipeline for pipeline in plan_file.pipelines}
        self._leadership = leadership
        self._name = name
        self._on_change = on_change
        self._models: dict[str, _PlannedModel] = {}
        self._placement = Placement()

    @property
    def leads(self) -> bool:
        """True when this planner may publish its pipelines."""
        return self._leadership.leads

    @property
    def sources(self) -> list[str]:
        """Sources of the planned models, as the operator or a client named them."""
        return list(self._models)

    def pipelines(self) -> tuple[Pipeline, ...]:
        return tuple(model.controller.pipeline for model in self._models.values())

    def pipeline(self, source: str) -> Pipeline:
        return self._models[source].controller.pipeline

    def add(self, source: str, spec: PipelineSpec, facts: ModelFacts) -> None:
        """Adds a model, with its pipeline in the file of an earlier process."""
        saved = self._saved.get(spec.source)
        placed = placed_spec(spec, facts.name, self._placement)
        self._models[source] = _PlannedModel(PipelineController(placed, facts, saved), facts, spec)

    def place(self, placement: Placement) -> None:
        """Follows other choices for machines from the next decision on."""
        self._placement = placement
        for model in self._models.values():
            model.controller.change_spec(placed_spec(model.spec, model.facts.name, placement))

    def why_not(self, placement: Placement, leases: LeaseTable) -> str:
        """Returns which model could not run with these choices, and why; empty when all can."""
        workers = limited_workers(leases.of_service("stage_worker"), placement)
        for source, model in self._models.items():
            reason = model.controller.why_not(
                placed_spec(model.spec, model.facts.name, placement),
                subtract_placed_models(workers, self._placed_models(without=source)),
            )
            if reason:
                return reason
        return ""

    def remove(self, source: str, leases: LeaseTable) -> None:
        """Removes a model; its workers free it."""
        del self._models[source]
        self._file.write(self.pipelines())
        self._share_caches(leases)

    def reported(self, leases: LeaseTable) -> list[Pipeline]:
        """Returns the healthy pipelines that workers report."""
        return reported_pipelines(leases.of_service("stage_worker"))

    def forecast(self, drained: Set[str], leases: LeaseTable) -> DrainForecast:
        """Forecasts what planning without some nodes comes to, all models together.

        Args:
            drained: names of nodes or workers.
        """
        workers = limited_workers(leases.of_service("stage_worker"), self._placement)
        pipelines = {source: self.pipeline(source) for source in self._models}
        refusals: list[str] = []
        pause_s = 0.0
        for source, model in self._models.items():
            placed = [
                PlacedModel(
                    pipelines[other], self._models[other].facts, self._models[other].spec.draft
                )
                for other in self._models
                if other != source and pipelines[other].stages
            ]
            forecast, pipelines[source] = model.controller.forecast(
                subtract_placed_models(workers, placed), drained
            )
            pause_s = max(pause_s, forecast.pause_s)
            refusals += [forecast.refusal] if forecast.refusal else []
        return DrainForecast("; ".join(refusals), pause_s)

    def decide(
        self,
        leases: LeaseTable,
        now: float,
        is_complete: bool = True,
        drained: Set[str] = frozenset(),
    ) -> None:
        """Decides on every pipeline, if this planner leads.

        Does nothing while discovery is silent, because workers may then be alive unseen.

        Args:
            is_complete: all models that should be loaded are known. Before that a plan would
                lack some.
            drained: names of nodes or workers that are planned without.
        """
        if leases.get(self._name) is None:
            self._leadership.disconnect()
            return
        workers = limited_workers(leases.of_service("stage_worker"), self._placement)
        gateways, planners = leases.of_service("gateway"), leases.of_service("planner")
        if not self._leadership.update(
            now, self.pipelines(), workers, gateways, planners, is_complete
        ):
            return
        other_beacons = [*leases.of_service("discovery"), *gateways, *planners]
        present = {worker.name for worker in workers}
        for source, model in self._models.items():
            controller = model.controller
            before = controller.pipeline
            controller.adopt(workers)
            absent = {stage.worker for stage in controller.pipeline.stages} - present
            if absent and self._leadership.heard_for_s(now) < GRACE_S:
                self._apply(before, controller.pipeline)
                continue
            placed = self._placed_models(without=source)
            after = controller.decide(
                subtract_placed_models(workers, placed),
                next_epoch(self._file.epoch, self.pipelines(), [*workers, *other_beacons]),
                now,
                other_beacons,
                [other.pipeline.model for other in placed],
                drained,
            )
            self._apply(before, after)
            if after.epoch != before.epoch:
                self._share_caches(leases)

    def _apply(self, before: Pipeline, after: Pipeline) -> None:
        if after != before:
            self._file.write(self.pipelines())
            self._on_change(before, after)

    def _placed_models(self, without: str = "") -> list[PlacedModel]:
        return [
            PlacedModel(model.controller.pipeline, model.facts, model.spec.draft)
            for source, model in self._models.items()
            if model.controller.pipeline.stages and source != without
        ]

    def _share_caches(self, leases: LeaseTable) -> None:
        """Divides the memory for caches among the models.

        Epochs stay the same: heads apply the new limit, and requests already admitted keep
        their memory.
        """
        workers = limited_workers(leases.of_service("stage_worker"), self._placement)
        limits = fair_cache_tokens(self._placed_models(), workers)
        for model in self._models.values():
            before = model.controller.pipeline
            self._apply(before, model.controller.limit_cache_tokens(limits.get(before.epoch)))
