"""``/v1/responses/{id}``: responses that were kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona_gateway.http.common.run_request import gateway_of, share_of
from pomona_gateway.http.json_response import JsonResponse
from pomona_gateway.http.openai.response_store import Conversation
from pomona_gateway.http.query import Query, parse_query


class NoQuery(Query):
    """A kept response comes whole, as it was."""


class ItemsQuery(Query):
    """Which part of a list of items."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    """``desc`` begins with the last item."""
    after: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    """Go on after the item with this id."""


async def get_response(request: Request) -> Response:
    """A response that was kept."""
    parse_query(NoQuery, request)
    return JsonResponse(_find(request).response)


async def delete_response(request: Request) -> Response:
    """Forget a response, and that a conversation ended with it."""
    parse_query(NoQuery, request)
    _find(request)
    name: str = request.path_params["response"]
    gateway_of(request).response_store.forget(name, share_of(request))
    return JsonResponse({"id": name, "object": "response", "deleted": True})


async def input_items(request: Request) -> Response:
    """What the request for a kept response added to its conversation."""
    asked = parse_query(ItemsQuery, request)
    items = list(_find(request).items)
    if asked.order == "desc":
        items.reverse()
    if asked.after is not None:
        names = [item["id"] for item in items]
        if asked.after not in names:
            message = f"invalid 'after': the response has no input item {asked.after!r}"
            raise RequestError(400, "item_not_found", message, "after")
        items = items[names.index(asked.after) + 1 :]
    page = items[: asked.limit]
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
    name: str = request.path_params["response"]
    found = gateway_of(request).response_store.find(name, share_of(request))
    if found is None:
        message = f"there is no response {name!r}, or it is forgotten, or it was not to be stored"
        raise RequestError(404, "response_not_found", message, "response_id")
    return found
