"""``/health``, ``/readyz``, ``/metrics`` and ``/v1/models``: what a gateway says of itself."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.http.errors import speaks_anthropic
from pomona_gateway.http.json_response import JsonResponse

RETRY_AFTER_S = 2


async def health(request: Request) -> Response:
    """Alive: the event loop answers."""
    return JsonResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Ready: a real token came through a pipeline in its present epoch."""
    gateway: Gateway = request.app.state.gateway
    ready = gateway.ready()
    table = gateway.route_table
    proven = gateway.verified_routes.epochs()
    models: dict[str, Any] = {}
    for name, pipeline in sorted(table.pipelines.items()):
        reason = table.reason(name) or gateway.models.problem(name)
        if not reason and name not in proven:
            reason = f"no token has come through epoch {pipeline.epoch} yet"
        models[name] = {
            "ready": not reason,
            "reason": reason,
            "epoch": pipeline.epoch,
            "state": pipeline.state,
            "stages": [asdict(stage) for stage in table.stages(name)],
        }
    reasons = [f"{name}: {entry['reason']}" for name, entry in models.items() if entry["reason"]]
    reason = "; ".join(reasons) or "no planner has been heard yet"
    if gateway.draining:
        reason = "the gateway is shutting down"
    state = "ready" if ready else ("draining" if gateway.draining else "loading")
    body = {"status": state, "reason": "" if ready else reason, "models": models}
    headers = {} if ready else {"retry-after": str(RETRY_AFTER_S)}
    return JsonResponse(body, 200 if ready else 503, headers)


async def metrics(request: Request) -> Response:
    """Prometheus' exposition format."""
    gateway: Gateway = request.app.state.gateway
    return Response(gateway.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})


async def list_models(request: Request) -> Response:
    """Every model of the cluster, those still loading included."""
    gateway: Gateway = request.app.state.gateway
    names = gateway.models.names()
    if speaks_anthropic(request.scope):
        data = [anthropic_model(gateway, name) for name in names]
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return JsonResponse({"data": data, "has_more": False, **ends})
    return JsonResponse({"object": "list", "data": [model_object(gateway, x) for x in names]})


async def get_model(request: Request) -> Response:
    """One model; its id may hold slashes."""
    gateway: Gateway = request.app.state.gateway
    name: str = request.path_params["model"]
    if name not in gateway.models.names():
        raise RequestError(404, "model_not_found", f"there is no model {name!r}", "model")
    told = anthropic_model if speaks_anthropic(request.scope) else model_object
    return JsonResponse(told(gateway, name))


def anthropic_model(gateway: Gateway, name: str) -> dict[str, Any]:
    """As Anthropic's API has it (https://docs.claude.com/en/api/models-list)."""
    created = datetime.fromtimestamp(gateway.models.created(name), UTC)
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created.isoformat(timespec="seconds"),
    }


def model_object(gateway: Gateway, name: str) -> dict[str, Any]:
    ready = name in gateway.verified_routes.epochs() and not gateway.models.problem(name)
    return {
        "id": name,
        "object": "model",
        "created": gateway.models.created(name),
        "owned_by": "pomona",
        "ready": ready,
        "context_length": gateway.models.context_length(name),
    }
