"""Parameters in the query of a request's target."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json
from starlette.requests import Request

from pomona.errors import RequestError
from pomona_gateway.http.request_body import explain


class Query(BaseModel):
    """Base of all queries: nothing unknown, nothing given twice."""

    model_config = ConfigDict(extra="forbid", frozen=True)


QueryT = TypeVar("QueryT", bound=Query)


def parse_query(kind: type[QueryT], request: Request) -> QueryT:
    """Raises RequestError naming the parameter at fault."""
    given = dict(request.query_params)
    if len(given) < len(request.query_params.multi_items()):
        name = next(x for x in given if len(request.query_params.getlist(x)) > 1)
        raise RequestError(400, "invalid_value", f"invalid {name!r}: it is given twice", name)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise explain(error, to_json(given)) from error
