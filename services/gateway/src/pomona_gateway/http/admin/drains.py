"""``POST /api/pomona/v1/drain`` and ``/api/pomona/v1/undrain``, for administrators."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona_gateway.http.common.run_request import gateway_of, read_request
from pomona_gateway.http.request_body import Body
from pomona_gateway.http.respond import JsonResponse

Node = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class DrainBody(Body):
    """A node, or one of its stage workers, by name.

    Attributes:
        until_back: the drain ends by itself when the node has been started again.
        force: drain also when the others cannot hold a model, which then is not served.
    """

    node: Node
    until_back: bool = False
    force: bool = False


class UndrainBody(Body):
    """A node, or one of its stage workers, by name."""

    node: Node


async def drain(request: Request) -> Response:
    """Asks the planner to plan without a node. The state of the cluster shows its decision, which
    is at least as new as ``at``, in ``drains``."""
    body = await read_request(request, DrainBody)
    return _ask_planner(request, body.node, True, body.until_back, body.force)


async def undrain(request: Request) -> Response:
    """Asks the planner to plan with a node again."""
    body = await read_request(request, UndrainBody)
    return _ask_planner(request, body.node, False)


def _ask_planner(
    request: Request, node: str, drained: bool, until_back: bool = False, force: bool = False
) -> Response:
    gateway = gateway_of(request)
    beacons = [lease.beacon for lease in gateway.control.leases]
    nodes = sorted({beacon.node for beacon in beacons})
    workers = {beacon.name for beacon in beacons if beacon.facts.service == "stage_worker"}
    if node not in workers.union(nodes) and not gateway.drain_requests.knows(node):
        message = f"there is no node {node!r}; the cluster has {', '.join(nodes) or 'none'}"
        raise RequestError(404, "node_not_found", message, "node")
    stated = gateway.drain_requests.request(node, drained, until_back, force)
    state = "draining" if drained else "ended"
    return JsonResponse({"node": node, "object": "drain", "state": state, "at": stated.at}, 202)
