"""Address at which the stage before reaches a worker; pure functions.

A worker on the sender's own node is reached without TCP where it offers a local endpoint. A worker
that listens on all addresses (``POMONA_DATA_HOST=0.0.0.0``) is reached at the best one that the
discovery service of the sender's node measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pomona.addresses import WILDCARD_HOSTS, best_address
from pomona.messages.control import Beacon, Stage
from pomona.messages.discovery import DiscoveryFacts, LinkFacts


def data_address(worker: Beacon, sender: Beacon, discoveries: Sequence[Beacon]) -> str | None:
    """Returns the address at which ``sender`` reaches a worker.

    Empty when it is the worker's own data endpoint; None when it is not known yet.
    """
    local = worker.endpoints.get("local", "")
    if sender.node == worker.node and local:
        return local
    endpoint = worker.endpoints.get("data", "")
    if endpoint.removeprefix("tcp://").rpartition(":")[0] not in WILDCARD_HOSTS:
        return ""
    links = {name: tuple(_links_from(name, discoveries)) for name in (sender.node, worker.node)}
    return best_address(endpoint, worker.node, sender.node, links) or None


def dead_address(
    stages: Sequence[Stage], by_name: Mapping[str, Beacon], discoveries: Sequence[Beacon]
) -> str | None:
    """Describes a stage whose address is dead while another address of its node answers.

    Args:
        by_name: the workers of all stages.
    """
    for before, stage in zip((stages[-1], *stages[:-1]), stages, strict=True):
        host = stage.address.removeprefix("tcp://").rpartition(":")[0]
        node = by_name[stage.worker].node
        for link in _links_from(by_name[before.worker].node, discoveries):
            if link.node == node and link.address and host in link.dead:
                return f"{node} no longer answers at {host}"
    return None


def _links_from(node: str, discoveries: Iterable[Beacon]) -> Iterable[LinkFacts]:
    for beacon in discoveries:
        if beacon.node == node and isinstance(beacon.facts, DiscoveryFacts):
            yield from beacon.facts.links
