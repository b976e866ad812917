"""``POST /v1/models/load`` and ``/unload``: for an administrator's key, where keys are."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona_gateway.http.common.run_request import gateway_of, receive
from pomona_gateway.http.json_response import JsonResponse
from pomona_gateway.http.request_body import Body


class ModelBody(Body):
    """The model: its name, or a hub id, a folder or a GGUF file."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


async def load(request: Request) -> Response:
    """Have a model loaded. Answers at once; ``/v1/models`` and ``/readyz`` tell when it is."""
    return await _ask(request, loaded=True)


async def unload(request: Request) -> Response:
    """Have a model unloaded. Its running requests fail."""
    return await _ask(request, loaded=False)


async def _ask(request: Request, loaded: bool) -> Response:
    asked = await receive(request, ModelBody)
    requests = gateway_of(request).load_requests
    if requests.find(asked.model) is None and not loaded:
        raise RequestError(404, "model_not_found", f"there is no model {asked.model!r}", "model")
    name = requests.request(asked.model, loaded)
    state = "loading" if loaded else "unloading"
    return JsonResponse({"id": name, "object": "model", "state": state}, 202)
