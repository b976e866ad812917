"""``POST /v1/models/load`` and ``POST /v1/models/unload``, for administrators."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona_gateway.http.common.run_request import gateway_of, read_request
from pomona_gateway.http.request_body import Body
from pomona_gateway.http.respond import JsonResponse


class ModelBody(Body):
    """A model: its name, or a hub id, a folder or a GGUF file."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


async def load(request: Request) -> Response:
    """Asks the planner to load a model. ``/v1/models`` and ``/readyz`` show when it is ready."""
    return await _ask_planner(request, loaded=True)


async def unload(request: Request) -> Response:
    """Asks the planner to unload a model. Its running requests fail."""
    return await _ask_planner(request, loaded=False)


async def _ask_planner(request: Request, loaded: bool) -> Response:
    body = await read_request(request, ModelBody)
    requests = gateway_of(request).load_requests
    if requests.find(body.model) is None and not loaded:
        raise RequestError(404, "model_not_found", f"there is no model {body.model!r}", "model")
    name = requests.request(body.model, loaded)
    state = "loading" if loaded else "unloading"
    return JsonResponse({"id": name, "object": "model", "state": state}, 202)
