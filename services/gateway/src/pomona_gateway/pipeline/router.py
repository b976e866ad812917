"""Routes from models to pipelines, computed from beacons. Pure.

A route stays until a beacon contradicts it. Losing the planner or the discovery service
therefore changes nothing for requests, as long as the head of the pipeline answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pomona.addresses import IPC_PREFIX, at_node, best_address
from pomona.messages.control import (
    Beacon,
    Pipeline,
    PlannerFacts,
    StageStatus,
    StageWorkerFacts,
)
from pomona.messages.discovery import DiscoveryFacts, LinkFacts


@dataclass(frozen=True, slots=True)
class Route:
    """Head of the active pipeline of a model.

    Attributes:
        boot: boot id of the head. A head with another boot id has lost its KV caches.
        endpoint: endpoint of the head for this gateway. Routes that differ only in it are equal.
        node: node of the head.
    """

    model: str
    epoch: int
    head: str
    boot: str
    endpoint: str = field(compare=False)
    node: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage as ``/readyz`` shows it.

    Attributes:
        state: state of the stage; ``unheard`` before the first beacon of its worker,
            ``waiting`` before the worker states this epoch.
        loaded_bytes: weights in memory, of ``total_bytes``.
        fetched_bytes: weights downloaded before loading, of ``fetch_bytes``.
    """

    worker: str
    start: int
    stop: int
    state: str
    loaded_bytes: int
    total_bytes: int
    error: str
    fetched_bytes: int = 0
    fetch_bytes: int = 0


class RouteTable:
    """Computes routes from the beacons of planner, stage workers and discovery.

    Args:
        node: node of this gateway.
    """

    def __init__(self, node: str = "") -> None:
        self._node = node
        self._pipelines: dict[str, Pipeline] = {}
        self._workers: dict[str, Beacon] = {}
        self._routes: dict[str, Route] = {}
        self._links: dict[str, Sequence[LinkFacts]] = {}

    @property
    def pipelines(self) -> dict[str, Pipeline]:
        """Newest planned pipeline of each model, by the name that clients use."""
        return dict(self._pipelines)

    @property
    def routes(self) -> dict[str, Route]:
        """Current routes by model. A model without a route cannot be served."""
        return dict(self._routes)

    def on_beacon(self, beacon: Beacon) -> bool:
        """Updates the table. Returns True when a pipeline or a route changed."""
        before = (dict(self._pipelines), self._endpoints())
        match beacon.facts:
            case PlannerFacts(pipelines=pipelines):
                planned = {x.model: x for x in sorted(pipelines, key=lambda x: x.epoch)}
                if beacon.state == "ready":
                    self._pipelines = planned
                else:
                    self._pipelines |= planned
            case StageWorkerFacts():
                self._workers[beacon.name] = beacon
            case DiscoveryFacts(links=links):
                self._links[beacon.node] = links
            case _:
                return False
        routes = {model: self._route(pipeline) for model, pipeline in self._pipelines.items()}
        self._routes = {model: route for model, route in routes.items() if route is not None}
        return before != (self._pipelines, self._endpoints())

    def _endpoints(self) -> dict[str, tuple[Route, str]]:
        # The equality of routes ignores endpoints.
        return {model: (route, route.endpoint) for model, route in self._routes.items()}

    def route(self, model: str) -> Route | None:
        """Returns the current route of a model."""
        return self._routes.get(model)

    def reply_endpoint(self, route: Route, endpoint: str) -> str:
        """Returns the endpoint and node of this gateway as the stages of a pipeline reach it.

        Head and tail share one endpoint. It is measured from the tail, which sends the tokens,
        or from the head when only the tail is on this node.
        """
        pipeline = self._pipelines.get(route.model)
        ends = (pipeline.stages[-1], pipeline.stages[0]) if pipeline and pipeline.stages else ()
        nodes = [self._workers[x.worker].node for x in ends if x.worker in self._workers]
        sender = next((node for node in nodes if node != self._node), self._node)
        address = best_address(endpoint, self._node, sender, self._links) or endpoint
        return at_node(address, self._node)

    def cache_use(self, model: str) -> float:
        """Returns the fraction of the KV cache in use, 0 to 1, from the head's last beacon."""
        pipeline = self._pipelines.get(model)
        if pipeline is None or not pipeline.stages or not pipeline.cache_tokens:
            return 0.0
        status = self._status(pipeline.stages[0].worker, pipeline)
        return status.sequence_tokens / pipeline.cache_tokens if status else 0.0

    def reason(self, model: str) -> str:
        """Explains why a model cannot be served; empty when it can."""
        pipeline = self._pipelines.get(model)
        if model in self._routes:
            return ""
        if pipeline is None:
            return "no planner is known yet" if not self._pipelines else "no such model"
        if pipeline.state == "impossible":
            return pipeline.reason or "no pipeline can be formed"
        for stage in self.stages(model):
            where = f"stage [{stage.start}, {stage.stop}) on {stage.worker}"
            if stage.state == "unheard":
                return f"{where} has sent no beacon yet"
            if stage.state == "failed":
                return f"{where} failed: {stage.error}"
            if stage.state == "loading" and stage.fetch_bytes and not stage.total_bytes:
                percent = 100 * stage.fetched_bytes // stage.fetch_bytes
                return f"{where} is being fetched, {percent}% of {stage.fetch_bytes / 1e9:.1f} GB"
            if stage.state != "ready":
                total = stage.total_bytes
                percent = 100 * stage.loaded_bytes // total if total else 0
                return f"{where} is {stage.state}, {percent}% of its weights are in memory"
        return pipeline.reason or f"epoch {pipeline.epoch} is {pipeline.state}"

    def stages(self, model: str) -> list[StageView]:
        """Returns the stages of a model's newest pipeline, in order."""
        pipeline = self._pipelines.get(model)
        if pipeline is None:
            return []
        views: list[StageView] = []
        for stage in pipeline.stages:
            status = self._status(stage.worker, pipeline)
            known = stage.worker in self._workers
            views.append(
                StageView(
                    worker=stage.worker,
                    start=stage.start,
                    stop=stage.stop,
                    state=status.state if status else ("waiting" if known else "unheard"),
                    loaded_bytes=status.loaded_bytes if status else 0,
                    total_bytes=status.total_bytes if status else 0,
                    error=status.error if status else "",
                    fetched_bytes=status.fetched_bytes if status else 0,
                    fetch_bytes=status.fetch_bytes if status else 0,
                )
            )
        return views

    def _status(self, worker: str, pipeline: Pipeline) -> StageStatus | None:
        beacon = self._workers.get(worker)
        if beacon is None or not isinstance(beacon.facts, StageWorkerFacts):
            return None
        for status in beacon.facts.stages:
            if status.model == pipeline.model and status.epoch == pipeline.epoch:
                return status
        return None

    def _route(self, pipeline: Pipeline) -> Route | None:
        if pipeline.state != "active" or not pipeline.stages:
            # A planner that has just restarted may not know yet that its epoch is active.
            known = self._routes.get(pipeline.model)
            same = known is not None and known.epoch == pipeline.epoch
            return known if known and same and self._still_ready(known) else None
        head = pipeline.stages[0]
        status = self._status(head.worker, pipeline)
        beacon = self._workers.get(head.worker)
        if beacon is None or status is None or status.state != "ready":
            return None
        # A new endpoint means a new process, without the KV caches of this epoch.
        if beacon.endpoints.get("data") != head.endpoint or _is_broken(beacon, pipeline.epoch):
            return None
        # The planner's address is the tail's way to the head; prefer what this node measured.
        measured = best_address(head.endpoint, beacon.node, self._node, self._links)
        tail_address = "" if head.address.startswith(IPC_PREFIX) else head.address
        endpoint = measured or tail_address or head.endpoint
        return Route(
            pipeline.model, pipeline.epoch, head.worker, beacon.boot, endpoint, beacon.node
        )

    def _still_ready(self, route: Route) -> bool:
        beacon = self._workers.get(route.head)
        if beacon is None or beacon.boot != route.boot:
            return False
        facts = beacon.facts
        return isinstance(facts, StageWorkerFacts) and any(
            x.model == route.model and x.epoch == route.epoch and x.state == "ready"
            for x in facts.stages
        )


def _is_broken(beacon: Beacon, epoch: int) -> bool:
    """Checks whether a worker reports that an epoch failed."""
    return isinstance(beacon.facts, StageWorkerFacts) and beacon.facts.broken_epoch == epoch
