"""Runs a request: key limits, priority, usage, and the response, whole or streamed."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.auth.api_keys import ApiKey, KeyLimits
from pomona.errors import RequestError
from pomona.queue_policy import QueuePolicy
from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.choices import GenerationStream
from pomona_gateway.generation.completion import Completion
from pomona_gateway.http.ignored import collect_ignored, ignored_of
from pomona_gateway.http.key_limits import Admission
from pomona_gateway.http.request_body import Body, Query, parse_body, parse_query, read_body
from pomona_gateway.http.respond import JsonResponse, StreamedResponse, while_connected

SETTLE_S = 0.25
"""Longest wait before a streamed response begins. A request that is refused within it gets the
status of its error instead of an error event."""

INTERACTIVE, BACKGROUND = 0, 1
"""Priorities at the head, most urgent first. Streams are read as they arrive; frontends request
titles, tags and follow-ups whole, in the background."""

BodyT = TypeVar("BodyT", bound=Body)
QueryT = TypeVar("QueryT", bound=Query)


class ResponseWriter(Protocol):
    """Writes the generated tokens of one completion in one dialect."""

    media_type: str
    """Media type of the streamed response."""

    async def whole(self, stream: GenerationStream, keep_alive_s: float) -> dict[str, Any]:
        """Returns the response body when every reply has ended."""
        ...

    def chunks(self, stream: GenerationStream, keep_alive_s: float) -> AsyncGenerator[bytes]:
        """Yields the encoded parts of a streamed response, one at least every
        ``keep_alive_s`` seconds."""
        ...

    def error_chunk(self, error: RequestError) -> bytes:
        """Encodes an error as the last part of a streamed response."""
        ...

    def keep_alive_chunk(self) -> bytes:
        """Encodes a part without content, which keeps the connection open."""
        ...


def gateway_of(request: Request) -> Gateway:
    """Returns the gateway that serves the request."""
    return request.app.state.gateway


def tenant_of(request: Request) -> str:
    """Returns the id of the request's API key; empty without one."""
    key: ApiKey | None = request.state.key
    return key.id if key else ""


async def read_request(request: Request, body_type: type[BodyT]) -> BodyT:
    """Reads and validates the request's body, and notes its parameters without effect.

    Raises RequestError.
    """
    body = parse_body(body_type, await read_raw(request))
    note_parameters(request, body)
    await wait_for_model(request, body)
    return body


async def wait_for_model(request: Request, body: Body) -> None:
    """Waits for a gateway that has just started. Raises ClientDisconnected."""
    gateway, name = gateway_of(request), getattr(body, "model", "")
    if gateway.is_settling(name):
        await while_connected(request.receive, gateway.wait_for_model(name))


async def read_raw(request: Request) -> bytes:
    """Reads the request's body. Raises RequestError, also while the gateway drains."""
    gateway = gateway_of(request)
    settings = gateway.settings
    raw = await read_body(request, settings.max_body_bytes, settings.body_deadline_s)
    if request.state.run is None:
        gateway.check_accepting()
    return raw


def note_parameters(request: Request, body: Body) -> None:
    """Notes the model that a body names, and the parameters without effect.

    Raises RequestError when these are refused.
    """
    request.state.model = getattr(body, "model", "")
    refuse = gateway_of(request).settings.unknown_parameters == "refuse"
    collect_ignored(body, ignored_of(request), refuse)


def read_query(request: Request, query_type: type[QueryT]) -> QueryT:
    """Validates the request's query, and notes its parameters without effect.

    Raises RequestError.
    """
    query = parse_query(query_type, request)
    refuse = gateway_of(request).settings.unknown_parameters == "refuse"
    collect_ignored(query, ignored_of(request), refuse)
    return query


async def run_request(
    request: Request,
    completion: Completion,
    writer: ResponseWriter,
    stream: bool,
    priority: int = INTERACTIVE,
) -> Response | ASGIApp:
    """Runs a completion until it ends or its client disconnects, and returns the response.

    Args:
        priority: priority at the head, of a streamed response.

    Raises RequestError when the completion is refused or, if not streamed, fails.
    """
    if not stream:
        return await run_whole(request, completion, writer.whole)
    settings = gateway_of(request).settings
    run = MeteredRun(request)
    generation = run.start(completion, priority)
    try:
        await while_connected(request.receive, generation.wait_for_first(SETTLE_S))
    except BaseException:
        run.finish()
        raise
    return StreamedResponse(
        writer.chunks(generation, settings.keep_alive_s),
        writer.error_chunk,
        writer.media_type,
        settings.stall_deadline_s,
        on_end=run.finish,
        keep_alive_s=settings.keep_alive_s,
        encode_keep_alive=writer.keep_alive_chunk,
    )


async def run_whole(
    request: Request,
    completion: Completion,
    write: Callable[[GenerationStream, float], Coroutine[Any, Any, dict[str, Any]]],
) -> Response:
    """Runs a completion and returns the JSON object that ``write`` builds from its replies.

    Raises RequestError when the completion is refused or fails.
    """
    run = MeteredRun(request)
    generation = run.start(completion, BACKGROUND)
    try:
        work = write(generation, gateway_of(request).settings.keep_alive_s)
        return JsonResponse(await while_connected(request.receive, work))
    finally:
        run.finish()


class MeteredRun:
    """One run of a completion, counted against the limits and the usage of its key."""

    def __init__(self, request: Request) -> None:
        self._gateway = gateway_of(request)
        self._key: ApiKey | None = request.state.key
        self._tenant = tenant_of(request)
        self._admission: Admission = request.state.admission
        self._generation: GenerationStream | None = None

    def start(self, completion: Completion, priority: int) -> GenerationStream:
        """Submits the completion. Raises RequestError when the pipeline cannot take it."""
        gateway = self._gateway
        limits = self._key.limits if self._key else KeyLimits()
        queued = replace(
            completion,
            queue=QueuePolicy(self._tenant, priority, (limits.queue_share or 100) / 100),
        )
        self._generation = GenerationStream(gateway.pipelines, gateway.metrics, queued)
        return self._generation

    def finish(self) -> None:
        """Cancels what still runs and counts the usage. Does nothing when called again."""
        generation, self._generation = self._generation, None
        if generation is None:
            return
        gateway = self._gateway
        generation.close()
        usage = generation.usage
        self._admission.release(usage.prompt + usage.reply)
        name = self._key.name if self._key else ""
        gateway.metrics.observe_key(name, usage.prompt, usage.reply)
        if self._key is not None:
            gateway.usage.add(self._key, usage.prompt, usage.reply, time.time())
