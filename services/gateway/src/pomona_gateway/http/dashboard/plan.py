"""``/api/pomona/v1/plan``: what would run where and how fast, by ``pomona plan`` itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona.models.published import published_names
from pomona_gateway.dashboard.pomona_commands import Finished
from pomona_gateway.http.common.run_request import gateway_of, read_request
from pomona_gateway.http.request_body import Body
from pomona_gateway.http.respond import JsonResponse, while_connected

NO_PLAN = 1
"""Exit status of ``pomona plan`` when the model does not fit."""

Cluster = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-z][0-9a-z:,-]*$", min_length=2, max_length=512)
]
"""Machines, like ``8x:m4-pro-64gb`` or ``m3-ultra-512gb,m4-max-128gb``."""


class PlanBody(Body):
    """A model and machines to plan it for."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    clusters: Annotated[list[Cluster], Field(min_length=1, max_length=4)]
    link: Literal["tb5-rdma", "tb5", "tb4", "10gbe", "1gbe", "wifi"] = "tb5-rdma"
    objective: Literal["latency", "throughput"] = "latency"
    users: Annotated[int, Field(ge=1, le=4096)] = 1
    context: Annotated[int, Field(ge=0, le=2**24)] = 0
    prompt: Annotated[int, Field(ge=0, le=2**24)] = 0
    bits: Annotated[float, Field(ge=0, le=32)] = 0.0
    wired_percent: Annotated[int, Field(ge=0, le=95)] = 0


async def plan(request: Request) -> Response:
    """Plans a model on machines that need not exist. Each cluster is planned for itself."""
    body = await read_request(request, PlanBody)
    source = _source(request, body.model)
    plans = gateway_of(request).plan_commands
    done = [
        await while_connected(request.receive, plans.run(*_arguments(body, source, cluster)))
        for cluster in body.clusters
    ]
    return JsonResponse({"plans": [_result(x) for x in done]})


async def plan_catalog(request: Request) -> Response:
    """Lists the machines, links and models that can be planned for by name."""
    plans = gateway_of(request).plan_commands
    done = await while_connected(request.receive, plans.run("plan", "--list", "--json"))
    return JsonResponse(_result(done))


def _source(request: Request, model: str) -> str:
    """Returns what ``pomona plan`` reads: only what everyone may know of, no path.

    Raises RequestError.
    """
    if model in published_names():
        return model
    known = gateway_of(request).load_requests.find(model)
    planned = gateway_of(request).models.planned(model)
    if known is not None or planned is not None:
        return known.source if known else planned.source if planned else model
    message = (
        f"{model!r} is neither a model of this cluster nor known by name; see GET on this path"
    )
    raise RequestError(400, "invalid_model", message, "model")


def _arguments(body: PlanBody, source: str, cluster: str) -> list[str]:
    options = {
        "cluster": cluster,
        "link": body.link,
        "objective": body.objective,
        "users": body.users,
        "context": body.context,
        "prompt": body.prompt,
        "bits": body.bits,
        "wired-percent": body.wired_percent,
    }
    named = [f"--{name}={value}" for name, value in options.items()]
    return ["plan", "--json", *named, "--", source]


def _result(done: Finished) -> Any:
    """Returns what a command has printed. Raises RequestError with its own words."""
    if done.status not in (0, NO_PLAN) or not done.output:
        # GET on this path has the names that the command lists.
        text = done.errors.removeprefix("pomona plan: ").partition("; known by name:")[0]
        raise RequestError(400, "invalid_plan", f"this cannot be planned: {text[-2000:]}")
    return orjson.loads(done.output)
