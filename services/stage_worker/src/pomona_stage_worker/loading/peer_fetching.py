"""Chooses the workers to fetch a model from, and remembers those that sent false bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final

from pomona.addresses import LinksByNode, at_node, best_address
from pomona.messages.control import Beacon, FalseWeights, Pipeline
from pomona.messages.discovery import DiscoveryFacts
from pomona.messages.limits import MAX_FALSE_WEIGHTS
from pomona.models.store.checked_source import CheckedSource, OnFalse, PlanDigests
from pomona.models.store.peer_source import PeerSource
from pomona.models.store.remote_source import MAX_PATH, RemoteSource

REFUSED_S: Final = 600.0
"""Time for which a worker that sent false bytes is not asked, and is reported."""


class PeerFetching:
    """Thread-safe, since fetches run in threads of their own.

    Args:
        node: node of this worker.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._planner_node = node
        self._digests: dict[str, str] = {}
        self._guard = threading.Lock()
        self._false: dict[str, tuple[float, FalseWeights]] = {}

    def on_plan(self, planner_node: str, pipelines: Iterable[Pipeline]) -> None:
        """Records the digests of a plan, and who made it."""
        self._planner_node = planner_node
        self._digests = {x.source: x.digest for x in pipelines}

    def peers(
        self,
        pipeline: Pipeline,
        workers: Iterable[Beacon],
        discoveries: Iterable[Beacon],
        now: float,
    ) -> list[RemoteSource]:
        """Returns the sources to ask in order: workers of this node, of others, of the planner's.

        The planner's machine has most to send, and what others send is checked.
        """
        refused = {x.peer for x in self.false_weights(now)}
        links = {
            beacon.node: beacon.facts.links
            for beacon in discoveries
            if isinstance(beacon.facts, DiscoveryFacts)
        }
        serving = [x for x in workers if "files" in x.endpoints and x.name not in refused]
        serving.sort(key=lambda x: (x.node != self._node, x.node == self._planner_node))
        peers = [(x, PeerSource(x.name, self._endpoint(x, links))) for x in serving]
        source = pipeline.source
        digest = self._digests.get(source, "") or pipeline.digest
        digests = PlanDigests(source, digest, [peer for _, peer in peers])
        return [
            CheckedSource(
                peer, digests, beacon.node in (self._node, self._planner_node),
                self._reporter(beacon, pipeline.model),
            )
            for beacon, peer in peers
        ]  # fmt: skip

    def false_weights(self, now: float) -> tuple[FalseWeights, ...]:
        """Returns the peers that sent false bytes within REFUSED_S."""
        with self._guard:
            self._false = {k: x for k, x in self._false.items() if now - x[0] < REFUSED_S}
            found = [report for _, report in self._false.values()]
        return tuple(found[-MAX_FALSE_WEIGHTS:])

    def _reporter(self, peer: Beacon, model: str) -> OnFalse:
        def report(name: str, file: str) -> None:
            found = FalseWeights(name, peer.node, model, file[:MAX_PATH])
            with self._guard:
                self._false[name] = (time.monotonic(), found)

        return report

    def _endpoint(self, other: Beacon, links: LinksByNode) -> str:
        """Returns where this node reaches another worker's files."""
        endpoint = other.endpoints["files"]
        best = best_address(endpoint, other.node, self._node, links)
        return at_node(best or endpoint, other.node)
