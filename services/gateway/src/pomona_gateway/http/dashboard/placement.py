"""``POST /api/pomona/v1/placement``: an administrator excludes, pins or caps a machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona.messages.placement import MachineChoice
from pomona_gateway.http.common.run_request import gateway_of, read_request
from pomona_gateway.http.request_body import Body
from pomona_gateway.http.respond import JsonResponse

MIN_MEMORY_BYTES = 1 << 20
Layer = Annotated[int, Field(ge=0, le=4096)]


class PlacementBody(Body):
    """A choice for one machine, which replaces the one before it. ``free`` takes it back."""

    machine: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    choice: Literal["exclude", "pin", "cap", "free"]
    model: Annotated[str, StringConstraints(max_length=200)] = ""
    start: Layer = 0
    stop: Layer = 0
    memory_bytes: Annotated[int, Field(ge=0, le=2**50)] = 0


async def placement(request: Request) -> Response:
    """Asks the planner to exclude a machine, to pin layers to it, or to cap its memory. The
    ``placement`` of the cluster's state tells what holds, and why a choice is refused."""
    body = await read_request(request, PlacementBody)
    asked = gateway_of(request).placement.choose(body.machine, _choice(body))
    return JsonResponse({"at": asked.at, "state": "asked", "machine": body.machine}, 202)


def _choice(body: PlacementBody) -> MachineChoice | None:
    """Raises RequestError (400) for layers or memory that are none."""
    if body.choice == "free":
        return None
    if body.choice == "exclude":
        return MachineChoice(body.machine, "exclude")
    if body.choice == "pin":
        if body.start >= body.stop:
            message = f"layers {body.start} to {body.stop} are none: stop must be above start"
            raise RequestError(400, "invalid_layers", message, "stop")
        return MachineChoice(body.machine, "pin", body.model, body.start, body.stop)
    if body.memory_bytes < MIN_MEMORY_BYTES:
        message = f"memory_bytes must be {MIN_MEMORY_BYTES} or more; exclude the machine instead"
        raise RequestError(400, "invalid_memory", message, "memory_bytes")
    return MachineChoice(body.machine, "cap", memory_bytes=body.memory_bytes)
