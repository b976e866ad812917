"""``/v1/responses/{id}``: retrieves, lists the input of, and deletes stored responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona.errors import RequestError
from pomona_gateway.http.common.run_request import gateway_of, read_query, tenant_of
from pomona_gateway.http.ignored import ignored_of
from pomona_gateway.http.openai.response_runs import event_stream, find_run, run_object
from pomona_gateway.http.openai.response_store import Conversation, missing_response
from pomona_gateway.http.request_body import Query
from pomona_gateway.http.respond import JsonResponse


class RetrieveQuery(Query):
    """The query of a response's retrieval."""

    hints = frozenset({"include", "include[]", "include_obfuscation"})

    stream: Literal["true", "false"] | None = None
    """Stream the events of the response, from the beginning or after one event."""
    starting_after: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """The ``sequence_number`` of the last event that the client has."""


class NoQuery(Query):
    """A query that has no effect."""

    hints = frozenset({"include", "include[]", "include_obfuscation", "stream"})


class ItemsQuery(Query):
    """The page of a list of items."""

    hints = frozenset({"include", "include[]"})

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    """``desc`` begins with the last item."""
    after: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    """Begin after the item with this id."""


async def get_response(request: Request) -> Response | ASGIApp:
    """Retrieves a response, or streams its events again."""
    query = read_query(request, RetrieveQuery)
    run = await find_run(request)
    if query.stream == "true":
        if run is None or (run.ended and not run.succeeded and not run.parts):
            _find(request)
            message = "the events of this response are not kept any more; leave out 'stream'"
            raise RequestError(400, "events_not_kept", message, "stream")
        starting_after = -1 if query.starting_after is None else query.starting_after
        return event_stream(gateway_of(request), run, starting_after)
    if query.starting_after is not None:
        ignored_of(request).add("starting_after")
    if run is not None and not run.ended:
        return JsonResponse(run_object(run))
    return JsonResponse(_find(request).response)


async def delete_response(request: Request) -> Response:
    """Deletes a stored response; no request can continue its conversation any more."""
    read_query(request, NoQuery)
    gateway, tenant = gateway_of(request), tenant_of(request)
    response_id: str = request.path_params["response"]
    run = await find_run(request)
    if run is None or run.ended:
        _find(request)
    if run is not None:
        await gateway.runs.drop(run)
    gateway.response_store.delete(response_id, tenant)
    return JsonResponse({"id": response_id, "object": "response", "deleted": True})


async def list_input_items(request: Request) -> Response:
    """Lists the input items of a stored response's request."""
    query = read_query(request, ItemsQuery)
    run = await find_run(request)
    items = list(run.items if run is not None and not run.ended else _find(request).items)
    if query.order == "desc":
        items.reverse()
    if query.after is not None:
        ids = [item["id"] for item in items]
        if query.after not in ids:
            message = f"invalid 'after': the response has no input item {query.after!r}"
            raise RequestError(400, "item_not_found", message, "after")
        items = items[ids.index(query.after) + 1 :]
    page = items[: query.limit]
    return JsonResponse(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > len(page),
        }
    )


def _find(request: Request) -> Conversation:
    response_id: str = request.path_params["response"]
    conversation = gateway_of(request).response_store.get(response_id, tenant_of(request))
    if conversation is None:
        raise RequestError(404, "response_not_found", missing_response(response_id), "response_id")
    return conversation
