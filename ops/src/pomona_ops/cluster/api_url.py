"""Finds the URL at which this machine reaches the API of its cluster."""

from __future__ import annotations

import asyncio

from pomona.errors import ConfigurationError
from pomona.messages.control import GatewayFacts
from pomona_ops.cluster.beacons import collect_beacons
from pomona_ops.cluster.processes import gateway_url, node_role
from pomona_ops.cluster.reachable_urls import reachable_urls
from pomona_ops.cluster.started import find_target


def api_url(port: int) -> str:
    """Returns the URL of the gateway for a command on this machine.

    It is on this machine, unless the head of the cluster is another one. Raises ConfigurationError
    when that one's API cannot be reached from here.
    """
    target = find_target(port)
    if node_role(target.state_dir) == "head":
        return gateway_url(port)
    beacons = asyncio.run(collect_beacons(target.endpoint, target.cluster))
    urls = reachable_urls(beacons, target.node)
    if urls:
        return urls[0]
    closed = ", ".join(sorted({x.node for x in beacons if isinstance(x.facts, GatewayFacts)}))
    if closed:
        raise ConfigurationError(
            f"the API of {target.cluster} listens on {closed} only: run the command there, or set "
            "POMONA_GATEWAY_HOST=0.0.0.0 there, which requires API keys (`pomona keys create`)"
        )
    raise ConfigurationError(
        f"no gateway of {target.cluster} is heard on this machine: start the head, and `pomona up` "
        "here"
    )
