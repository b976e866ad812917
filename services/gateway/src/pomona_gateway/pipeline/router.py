"""Which pipeline serves which model, by the beacons heard: pure.

A route stays until a beacon contradicts it. Losing the planner or the discovery service
therefore changes nothing for requests, as long as the head of the pipeline answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pomona.addresses import IPC_PREFIX, best_address
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
    """Where the requests of a model go: the head of its active pipeline.

    Attributes:
        boot: boot id of the head; with another one its caches are gone.
        endpoint: where this gateway reaches the head. It may change while all else stays.
    """

    model: str
    epoch: int
    head: str
    boot: str
    endpoint: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage as ``/readyz`` shows it. ``state`` is ``unheard`` before its worker spoke.
    ``fetch_bytes``: of its weights what was not on the machine, and comes before the loading.
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
    """Follows the beacons of planner, stage workers and discovery.

    Args:
        node: the machine this gateway runs on.
    """

    def __init__(self, node: str = "") -> None:
        self._node = node
        self._pipelines: dict[str, Pipeline] = {}
        self._workers: dict[str, Beacon] = {}
        self._routes: dict[str, Route] = {}
        self._links: dict[str, Sequence[LinkFacts]] = {}

    @property
    def pipelines(self) -> dict[str, Pipeline]:
        """The newest plan of each model, by the name clients use."""
        return dict(self._pipelines)

    @property
    def routes(self) -> dict[str, Route]:
        """The models that can be served now."""
        return dict(self._routes)

    def on_beacon(self, beacon: Beacon) -> bool:
        """Take in a beacon. True when a plan or a route changed."""
        before = (dict(self._pipelines), self._ways())
        match beacon.facts:
            case PlannerFacts(pipelines=pipelines):
                stated = {x.model: x for x in sorted(pipelines, key=lambda x: x.epoch)}
                if beacon.state == "ready":
                    self._pipelines = stated
                else:
                    self._pipelines |= stated
            case StageWorkerFacts():
                self._workers[beacon.name] = beacon
            case DiscoveryFacts(links=links):
                self._links[beacon.node] = links
            case _:
                return False
        found = {model: self._route(pipeline) for model, pipeline in self._pipelines.items()}
        self._routes = {model: route for model, route in found.items() if route is not None}
        return before != (self._pipelines, self._ways())

    def _ways(self) -> dict[str, tuple[Route, str]]:
        return {model: (route, route.endpoint) for model, route in self._routes.items()}

    def route(self, model: str) -> Route | None:
        return self._routes.get(model)

    def way_back(self, route: Route, endpoint: str) -> str:
        """Where the stages of a pipeline reach an endpoint of this gateway.

        Head and tail are told the same: the tail's way, since the tail has most to say,
        unless the tail is on this machine and the head is not.
        """
        pipeline = self._pipelines.get(route.model)
        ends = (pipeline.stages[-1], pipeline.stages[0]) if pipeline and pipeline.stages else ()
        nodes = [self._workers[x.worker].node for x in ends if x.worker in self._workers]
        sender = next((node for node in nodes if node != self._node), self._node)
        return best_address(endpoint, self._node, sender, self._links) or endpoint

    def cache_use(self, model: str) -> float:
        """How much of the pipeline's caches the requests that run have taken, 0 to 1, as the
        head said last."""
        pipeline = self._pipelines.get(model)
        if pipeline is None or not pipeline.stages or not pipeline.cache_tokens:
            return 0.0
        status = self._status(pipeline.stages[0].worker, pipeline)
        return status.sequence_tokens / pipeline.cache_tokens if status else 0.0

    def reason(self, model: str) -> str:
        """Why the model cannot be served now, for a person; empty when it can."""
        pipeline = self._pipelines.get(model)
        if model in self._routes:
            return ""
        if pipeline is None:
            return "no planner has been heard yet" if not self._pipelines else "no such model"
        if pipeline.state == "impossible":
            return pipeline.reason or "no pipeline can be formed"
        for stage in self.stages(model):
            where = f"stage [{stage.start}, {stage.stop}) on {stage.worker}"
            if stage.state == "unheard":
                return f"{where} has not been heard yet"
            if stage.state == "failed":
                return f"{where} failed: {stage.error}"
            if stage.state == "loading" and stage.fetch_bytes and not stage.total_bytes:
                share = 100 * stage.fetched_bytes // stage.fetch_bytes
                return f"{where} is being fetched, {share}% of {stage.fetch_bytes / 1e9:.1f} GB"
            if stage.state != "ready":
                share = 100 * stage.loaded_bytes // stage.total_bytes if stage.total_bytes else 0
                return f"{where} is {stage.state}, {share}% of its weights are in memory"
        return pipeline.reason or f"epoch {pipeline.epoch} is {pipeline.state}"

    def stages(self, model: str) -> list[StageView]:
        """The stages of the model's newest plan, in order, as their workers have them."""
        pipeline = self._pipelines.get(model)
        if pipeline is None:
            return []
        views: list[StageView] = []
        for stage in pipeline.stages:
            status = self._status(stage.worker, pipeline)
            heard = stage.worker in self._workers
            views.append(
                StageView(
                    worker=stage.worker,
                    start=stage.start,
                    stop=stage.stop,
                    state=status.state if status else ("waiting" if heard else "unheard"),
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
        # Another endpoint is another process, which does not hold this epoch's caches.
        if beacon.endpoints.get("data") != head.endpoint or _broken(beacon, pipeline.epoch):
            return None
        # The planner's address is how the tail reaches the head; this node may know better.
        measured = best_address(head.endpoint, beacon.node, self._node, self._links)
        of_tail = "" if head.address.startswith(IPC_PREFIX) else head.address
        endpoint = measured or of_tail or head.endpoint
        return Route(pipeline.model, pipeline.epoch, head.worker, beacon.boot, endpoint)

    def _still_ready(self, route: Route) -> bool:
        beacon = self._workers.get(route.head)
        if beacon is None or beacon.boot != route.boot:
            return False
        facts = beacon.facts
        return isinstance(facts, StageWorkerFacts) and any(
            x.model == route.model and x.epoch == route.epoch and x.state == "ready"
            for x in facts.stages
        )


def _broken(beacon: Beacon, epoch: int) -> bool:
    """Whether the worker has said that this epoch failed."""
    return isinstance(beacon.facts, StageWorkerFacts) and beacon.facts.broken_epoch == epoch
