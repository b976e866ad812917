"""``GET /health``, ``/readyz``, ``/metrics`` and ``/v1/models``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.http.common.run_request import gateway_of
from pomona_gateway.http.errors import dialect_of
from pomona_gateway.http.respond import JsonResponse

RETRY_AFTER_S = 2


async def health(request: Request) -> Response:
    """Answers as long as the event loop runs."""
    return JsonResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Answers 200 while a plan is valid and a token has come through a pipeline in its current
    epoch, else 503."""
    gateway = gateway_of(request)
    ready = gateway.ready()
    models = {name: _readiness(gateway, name) for name in sorted(gateway.route_table.pipelines)}
    reasons = [f"{name}: {model['reason']}" for name, model in models.items() if model["reason"]]
    reason = "; ".join(reasons) or gateway.load_requests.why_nothing_is_loaded()
    if not gateway.hears_planner():
        reason = gateway.planner_trouble()
    if gateway.draining:
        reason = "the gateway is shutting down"
    state = "ready" if ready else ("draining" if gateway.draining else "loading")
    body = {"status": state, "reason": "" if ready else reason, "models": models}
    headers = {} if ready else {"retry-after": str(RETRY_AFTER_S)}
    return JsonResponse(body, 200 if ready else 503, headers)


def _readiness(gateway: Gateway, name: str) -> dict[str, Any]:
    table = gateway.route_table
    pipeline = table.pipelines[name]
    reason = table.reason(name) or gateway.models.problem(name)
    if not reason and name not in gateway.verified_routes.epochs():
        reason = f"no token has come through epoch {pipeline.epoch} yet"
    return {
        "ready": not reason,
        "reason": reason,
        "epoch": pipeline.epoch,
        "state": pipeline.state,
        "stages": [asdict(stage) for stage in table.stages(name)],
    }


async def metrics(request: Request) -> Response:
    """Returns the metrics in Prometheus' exposition format."""
    text = gateway_of(request).metrics.exposition()
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


async def list_models(request: Request) -> Response:
    """Lists all models of the cluster, including those that are loading, and unloaded ones that
    a request loads."""
    gateway = gateway_of(request)
    names = gateway.models.names()
    if dialect_of(request.scope) == "anthropic":
        data = [anthropic_model(gateway, name) for name in names]
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return JsonResponse({"data": data, "has_more": False, **ends})
    return JsonResponse({"object": "list", "data": [openai_model(gateway, x) for x in names]})


async def get_model(request: Request) -> Response:
    """Returns one model; its id may contain slashes."""
    gateway = gateway_of(request)
    name: str = request.path_params["model"]
    if name not in gateway.models.names():
        raise RequestError(404, "model_not_found", f"there is no model {name!r}", "model")
    describe = anthropic_model if dialect_of(request.scope) == "anthropic" else openai_model
    return JsonResponse(describe(gateway, name))


def anthropic_model(gateway: Gateway, name: str) -> dict[str, Any]:
    """Returns Anthropic's model object (https://docs.claude.com/en/api/models-list)."""
    created = datetime.fromtimestamp(gateway.models.created(name), UTC)
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created.isoformat(timespec="seconds"),
    }


def openai_model(gateway: Gateway, name: str) -> dict[str, Any]:
    """Returns OpenAI's model object, with readiness and context length.

    ``state`` is ``ready``, ``loading``, ``failed`` or ``unloaded``, with its reason unless it is
    ready.
    """
    problem = gateway.models.problem(name)
    ready = name in gateway.verified_routes.epochs() and not problem
    if name not in gateway.route_table.pipelines:
        state, reason = "unloaded", "the next request loads it"
    else:
        failed = gateway.models.has_failed(name)
        state = "ready" if ready else "failed" if failed else "loading"
        reason = "" if ready else problem or gateway.route_table.reason(name)
    return {
        "id": name,
        "object": "model",
        "created": gateway.models.created(name),
        "owned_by": "pomona",
        "ready": ready,
        "state": state,
        "reason": reason,
        "context_length": gateway.models.context_length(name),
    }
