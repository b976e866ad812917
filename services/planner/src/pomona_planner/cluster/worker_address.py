"""At which of its addresses a worker is reached: pure.

A worker of the sender's own machine is reached without TCP, where it says how. One that listens
on every address (``POMONA_DATA_HOST=0.0.0.0``) is reached at the best one, as the discovery service
of the sender's node measured it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pomona.addresses import WILDCARD_HOSTS, best_address
from pomona.messages.control import Beacon, Stage
from pomona.messages.discovery import DiscoveryFacts, LinkFacts


def address_of(worker: Beacon, sender: Beacon, others: Sequence[Beacon]) -> str | None:
    """Where a sender reaches a worker: empty when it is where the worker says that it listens,
    None when that is not known yet."""
    local = worker.endpoints.get("local", "")
    if sender.node == worker.node and local:
        return local
    endpoint = worker.endpoints.get("data", "")
    if endpoint.removeprefix("tcp://").rpartition(":")[0] not in WILDCARD_HOSTS:
        return ""
    links = {name: tuple(_links_from(name, others)) for name in (sender.node, worker.node)}
    return best_address(endpoint, worker.node, sender.node, links) or None


def dead_way(
    stages: Sequence[Stage], by_name: Mapping[str, Beacon], others: Sequence[Beacon]
) -> str | None:
    """A stage that is reached at an address that does not answer any more, while another of
    its addresses does; in words."""
    for before, stage in zip((stages[-1], *stages[:-1]), stages, strict=True):
        host = stage.address.removeprefix("tcp://").rpartition(":")[0]
        node = by_name[stage.worker].node
        for link in _links_from(by_name[before.worker].node, others):
            if link.node == node and link.address and host in link.dead:
                return f"{node} does not answer at {host} any more"
    return None


def _links_from(node: str, others: Iterable[Beacon]) -> Iterable[LinkFacts]:
    for beacon in others:
        if beacon.node == node and isinstance(beacon.facts, DiscoveryFacts):
            yield from beacon.facts.links
