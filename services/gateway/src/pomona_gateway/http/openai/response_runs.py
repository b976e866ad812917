"""Stored responses while they are generated: started, read again, cancelled.

Each is a run whose parts are the events of the response, numbered by their ``sequence_number``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.http import sse
from pomona_gateway.http.common.run_request import gateway_of, tenant_of
from pomona_gateway.http.idempotency import kept_request
from pomona_gateway.http.ignored import HEADER as IGNORED_HEADER
from pomona_gateway.http.openai.response_object import response_object
from pomona_gateway.http.openai.responses_request import ResponsesRequest
from pomona_gateway.http.request_body import parse_body
from pomona_gateway.http.respond import JsonResponse, while_connected
from pomona_gateway.http.run_response import RunResponse
from pomona_gateway.runs.run import Run
from pomona_gateway.runs.run_context import new_hex


def executed_response(request: Request) -> Run | None:
    """Returns the run of a response that executes this request; None for a client's request."""
    run: Run | None = request.state.run
    return run if run is not None and run.origin.kind == "response" else None


async def start_response(request: Request, body: ResponsesRequest, raw: bytes) -> ASGIApp:
    """Starts the run of a response, and answers with its events, its end or its beginning."""
    request.state.model = body.model
    gateway = gateway_of(request)
    executing: Run | None = request.state.run
    run = gateway.runs.start(
        "response",
        kept_request(request, raw),
        tenant_of(request),
        run_id=f"resp_{new_hex(16)}",
        background=bool(body.background),
        on_disk=executing is None or executing.origin.on_disk,
    )
    if body.stream:
        return _events(gateway, run)
    try:
        wait = run.wait_for_start() if body.background else run.wait_for_end()
        await while_connected(request.receive, wait)
    except BaseException:
        _on_reader_gone(gateway, run, False)
        raise
    if run.status >= 400 or (not run.status and run.error is not None):
        return _events(gateway, run)
    if run.error is not None:
        raise run.error
    if not body.background:
        gateway.runs.taken(run)
    return JsonResponse(run.snapshot, headers=_ignored_header(run))


def event_stream(gateway: Gateway, run: Run, starting_after: int) -> ASGIApp:
    """Streams the events of a response that follow a sequence number."""
    return _events(gateway, run, starting_after + 1)


async def cancel_response(request: Request) -> Response:
    """Cancels a response in the background. One that has ended is returned as it is."""
    response_id: str = request.path_params["response"]
    gateway, tenant = gateway_of(request), tenant_of(request)
    run = await find_run(request)
    stored = gateway.response_store.get(response_id, tenant)
    if run is not None and not run.ended:
        if not run.origin.background:
            raise _not_in_background()
        await gateway.runs.cancel(run, partial(_end_cancelled, gateway, run))
        return JsonResponse(run.snapshot)
    if stored is None:
        message = f"there is no response {response_id!r}"
        raise RequestError(404, "response_not_found", message, "response_id")
    if not stored.response.get("background"):
        raise _not_in_background()
    return JsonResponse(stored.response)


async def find_run(request: Request) -> Run | None:
    """Returns the run of the requested response, waiting for a gateway that ends it."""
    runs, response_id = gateway_of(request).runs, request.path_params["response"]
    await while_connected(request.receive, runs.wait_for_others(run_id=response_id))
    run = runs.get(response_id, tenant_of(request))
    return run if run is not None and run.origin.kind == "response" else None


def run_object(run: Run) -> dict[str, Any]:
    """Returns the response object so far."""
    return run.snapshot or _unprepared_object(run, "queued")


def store_failure(gateway: Gateway, run: Run) -> None:
    """Stores a response in the background that failed, so that its client is told."""
    if run.origin.kind != "response" or not run.origin.background:
        return
    if run.snapshot.get("status") != "failed":
        error = run.error or RequestError(500, "internal_error", "the response failed")
        failure = {"code": error.code, "message": error.message}
        if run.status >= 400 and run.parts:
            refused = orjson.loads(run.parts[-1])["error"]
            failure = {"code": refused["code"], "message": refused["message"]}
        run.snapshot = {**run_object(run), "status": "failed", "error": failure}
    gateway.response_store.put(run.origin.tenant, (), run.items, run.snapshot)


def _events(gateway: Gateway, run: Run, start: int = 0) -> RunResponse:
    settings = gateway.settings
    return RunResponse(
        run,
        settings.keep_alive_s,
        settings.stall_deadline_s,
        start,
        on_end=partial(_on_reader_gone, gateway, run),
    )


def _on_reader_gone(gateway: Gateway, run: Run, has_all: bool) -> None:
    """Cancels a response that is not in the background and without a reader."""
    if run.origin.background:
        return
    if has_all:
        gateway.runs.taken(run)
    elif not run.readers and not run.ended and not run.resumed:
        gateway.runs.abandon(run)


def _end_cancelled(gateway: Gateway, run: Run) -> bytes:
    """Stores a cancelled response, and returns its last event."""
    output = [{**item} for item in run.snapshot.get("output", [])]
    run.snapshot = {**run_object(run), "status": "cancelled", "output": output}
    gateway.response_store.put(run.origin.tenant, (), run.items, run.snapshot)
    # The API has no event for the end of a cancelled response. Clients stop at this one.
    name = "response.incomplete"
    event = {"type": name, "response": run.snapshot, "sequence_number": len(run.parts)}
    return sse.event(name, event)


def _unprepared_object(run: Run, status: str) -> dict[str, Any]:
    body = parse_body(ResponsesRequest, run.origin.request.body)
    return response_object(body, run.id, run.created, status)


def _ignored_header(run: Run) -> dict[str, str]:
    """Returns the header that names the ignored parameters, from the recorded response."""
    value = dict(run.headers).get(IGNORED_HEADER.encode())
    return {} if value is None else {IGNORED_HEADER: value.decode()}


def _not_in_background() -> RequestError:
    message = "only a response with background: true can be cancelled; close the connection instead"
    return RequestError(400, "response_not_in_background", message, "response_id")
