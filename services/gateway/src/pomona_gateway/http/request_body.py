"""Reads and validates request bodies and queries.

Every failure is a 400 (or 408, 413, 415) whose message names the parameter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, from_json, to_json
from starlette.requests import Request

from pomona.errors import RequestError
from pomona_gateway.http.inflate import inflater

MAX_SEPARATORS = 1 << 20
"""Maximum number of commas, colons and quotation marks in a body.

Each may stand for an object that takes a hundred times its bytes, and microseconds, to parse.
A body that is large because of its text has few separators.
"""
MAX_VALIDATION_ERRORS = 1 << 12
"""Maximum number of validation errors to examine: each takes a kilobyte to describe."""

_MESSAGES = {"none_required": "it is not supported; leave it out"}
"""Messages that replace pydantic's, by error type."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on several parameters of a body.

    Attributes:
        at: location of the parameter to blame; empty for the body itself.
        holds: returns whether a body satisfies the rule.
        schema: the same condition as JSON Schema, for the OpenAPI document.
        text: the remedy, for the error message.
    """

    at: tuple[str, ...]
    holds: Callable[[Any], bool]
    schema: dict[str, Any]
    text: str


def any_of(*alternatives: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON Schema that matches if one of the alternatives does."""
    return {"anyOf": list(alternatives)}


def absent_or(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON Schema for an object whose property is absent or matches."""
    return {"properties": {name: schema}}


def present_and(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON Schema for an object whose property is present and matches."""
    return {"properties": {name: schema}, "required": [name]}


class Lenient(BaseModel):
    """Base of bodies and queries: parameters that are not declared are kept and have no effect.

    ``http/ignored.py`` names them in the response.

    Attributes:
        hints: undeclared parameters that clients are known to send and that need no effect.
        left_out: the object stands for something that the server cannot use at all.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    hints: ClassVar[frozenset[str]] = frozenset()
    left_out: ClassVar[bool] = False

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).setdefault("properties", {})
        for hint in sorted(cls.hints):
            properties[hint] = {"description": "Accepted without effect."}
        return schema


class Body(Lenient):
    """Base of request bodies: types are not coerced.

    The exception is JSON Schema's: a number without a fraction, like 1.0, is an integer.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


class RuledBody(Body):
    """A body whose parameters depend on each other."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                context = {"text": rule.text, "at": rule.at}
                raise PydanticCustomError("rule", "{text}", context)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        handler.resolve_ref_schema(schema)["allOf"] = [rule.schema for rule in cls.rules]
        return schema


class Query(Lenient):
    """Base of URL queries: repeated parameters are refused."""


BodyT = TypeVar("BodyT", bound=Body)
QueryT = TypeVar("QueryT", bound=Query)


class ClientDisconnected(Exception):
    """The client closed its connection, so no response can reach it."""


async def read_body(request: Request, max_bytes: int, deadline_s: float) -> bytes:
    """Reads the whole body.

    A body in gzip or deflate is inflated as it arrives; ``max_bytes`` limits the inflated body.

    Raises RequestError when the body is in another encoding, larger than ``max_bytes`` or not
    complete after ``deadline_s`` seconds, and ClientDisconnected.
    """
    inflate = inflater(request.headers.get("content-encoding", "identity"))
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                chunk = inflate.inflate(message.get("body", b""), max_bytes + 1 - size)
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    inflate.end()
                    return b"".join(chunks)
    except TimeoutError as error:
        raise RequestError(
            408,
            "body_timeout",
            f"the body did not arrive within {deadline_s:g} s (POMONA_GATEWAY_BODY_DEADLINE_S)",
        ) from error


def _too_large(max_bytes: int) -> RequestError:
    message = f"the body is larger than {max_bytes} bytes (POMONA_GATEWAY_MAX_BODY_BYTES)"
    return RequestError(413, "body_too_large", message)


def parse_body(body_type: type[BodyT], raw: bytes) -> BodyT:
    """Parses and validates a JSON body. Raises RequestError naming the invalid parameter."""
    if not raw.strip():
        raise RequestError(400, "empty_body", "the body is empty; it must be a JSON object")
    if sum(raw.count(separator) for separator in b',:"') > MAX_SEPARATORS:
        message = f"the body has more than {MAX_SEPARATORS} commas, colons and quotation marks"
        raise RequestError(413, "body_too_large", message)
    try:
        return body_type.model_validate_json(raw)
    except ValidationError as error:
        if error.error_count() > MAX_VALIDATION_ERRORS:
            message = f"the body has {error.error_count()} invalid values, too many to list"
            raise RequestError(400, "invalid_value", message) from error
        if not any(_is_integral_float(detail) for detail in error.errors(include_url=False)):
            raise _request_error(error, raw) from error
    raw = to_json(_with_integers(from_json(raw)), inf_nan_mode="constants")
    try:
        return body_type.model_validate_json(raw)
    except ValidationError as error:
        raise _request_error(error, raw) from error


def parse_query(query_type: type[QueryT], request: Request) -> QueryT:
    """Validates the query of a URL. Raises RequestError naming the invalid parameter."""
    values = dict(request.query_params)
    repeated = [x for x in values if len(request.query_params.getlist(x)) > 1]
    if name := next((x for x in repeated if x in query_type.model_fields), ""):
        raise RequestError(400, "invalid_value", f"invalid {name!r}: it is given twice", name)
    try:
        return query_type.model_validate(values)
    except ValidationError as error:
        raise _request_error(error, to_json(values)) from error


def _is_integral_float(detail: ErrorDetails) -> bool:
    value = detail["input"]
    return detail["type"] == "int_type" and isinstance(value, float) and value.is_integer()


def _with_integers(value: Any) -> Any:
    """Replaces floats like 1.0 by integers, which float fields accept too."""
    match value:
        case float():
            return int(value) if value.is_integer() else value
        case list():
            return [_with_integers(x) for x in cast("list[Any]", value)]
        case dict():
            return {k: _with_integers(x) for k, x in cast("dict[str, Any]", value).items()}
        case _:
            return value


def _request_error(error: ValidationError, raw: bytes) -> RequestError:
    """Converts the most specific validation error to a 400 that repeats no value of the client."""
    detail = max(error.errors(include_url=False, include_input=False), key=_specificity)
    if detail["type"] == "json_invalid":
        return RequestError(400, "invalid_json", f"the body is not valid JSON: {detail['msg']}")
    missing = detail["type"] == "missing"
    location = (*detail["loc"], *detail.get("ctx", {}).get("at", ()))
    name = _parameter_name(location, from_json(raw), missing)
    match detail["type"]:
        case "missing":
            code, message = "missing_required_parameter", f"missing parameter: {name!r}"
        case _:
            where = f"invalid {name!r}" if name else "invalid body"
            reason = _MESSAGES.get(detail["type"], detail["msg"])
            code, message = "invalid_value", f"{where}: {reason}"
    return RequestError(400, code, message, name or None)


def _specificity(detail: ErrorDetails) -> tuple[int, int]:
    """Ranks validation errors of one body; the highest is reported.

    A wrong ``type`` explains the other errors of its object. Then comes the deepest error, which
    is in the union member that the client meant.
    """
    if detail["type"] == "literal_error" and detail["loc"][-1:] == ("type",):
        return 1, 0
    return 0, len(detail["loc"])


def _parameter_name(location: tuple[int | str, ...], body: Any, missing: bool) -> str:
    """Converts pydantic's location to a name like ``messages[0].content``.

    pydantic also puts the names of union members into locations. They are the parts that the
    body does not have, unless the parameter itself is ``missing``.
    """
    name = ""
    for depth, part in enumerate(location):
        last = depth == len(location) - 1
        if isinstance(part, int):
            if isinstance(body, list) and part < len(items := cast("list[Any]", body)):
                name, body = f"{name}[{part}]", items[part]
        elif isinstance(body, dict):
            fields = cast("dict[str, Any]", body)
            if part in fields or (missing and last):
                name, body = f"{name}.{part}" if name else part, fields.get(part)
    return name
