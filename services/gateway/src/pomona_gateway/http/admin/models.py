"""``POST /v1/models/load``, ``/v1/models/unload`` and ``/api/pomona/v1/models/pull``, for
administrators."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import ModelError, RequestError
from pomona.models import check_source
from pomona.models.store.hub_id import is_hub_id
from pomona.plain_text import plain_text
from pomona_gateway.http.common.run_request import gateway_of, read_request
from pomona_gateway.http.request_body import Body
from pomona_gateway.http.respond import JsonResponse
from pomona_gateway.settings import GatewaySettings


class ModelBody(Body):
    """A model: its name, or a hub id, a folder or a GGUF file."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


async def load(request: Request) -> Response:
    """Asks the planner to load a model. ``/v1/models`` and ``/readyz`` show when it is ready."""
    return await _ask_planner(request, loaded=True)


async def unload(request: Request) -> Response:
    """Asks the planner to unload a model. Its running requests fail."""
    return await _ask_planner(request, loaded=False)


async def pull(request: Request) -> Response:
    """Downloads all of a model to this machine; other machines then copy from it. The models that
    ``/api/pomona/v1/events`` streams show how far it is."""
    body = await read_request(request, ModelBody)
    if not is_hub_id(body.model):
        message = f"{plain_text(body.model, 128)!r} is not a Hugging Face id, such as owner/name"
        raise RequestError(400, "invalid_model", message, "model")
    gateway_of(request).pulls.start(body.model)
    return JsonResponse({"id": body.model, "object": "model", "state": "pulling"}, 202)


async def _ask_planner(request: Request, loaded: bool) -> Response:
    body = await read_request(request, ModelBody)
    requests = gateway_of(request).load_requests
    if requests.find(body.model) is None:
        if not loaded:
            raise RequestError(404, "model_not_found", f"there is no model {body.model!r}", "model")
        await asyncio.to_thread(_check_source, body.model, gateway_of(request).settings)
    name = requests.request(body.model, loaded)
    state = "loading" if loaded else "unloading"
    return JsonResponse({"id": name, "object": "model", "state": state}, 202)


def _check_source(source: str, settings: GatewaySettings) -> None:
    """Raises RequestError (400) for a source that cannot be a model, or that is outside of the
    folders of the settings."""
    try:
        path = check_source(source)
    except ModelError as error:
        raise RequestError(400, "invalid_model", str(error), "model") from error
    folders = [folder.expanduser().resolve() for folder in settings.model_folders]
    if path is not None and folders and not _is_below(path, folders):
        message = "this path is outside of the models' folders (POMONA_GATEWAY_MODEL_FOLDERS)"
        raise RequestError(400, "invalid_model", message, "model")


def _is_below(path: Path, folders: list[Path]) -> bool:
    resolved = path.resolve()
    return any(resolved.is_relative_to(folder) for folder in folders)
