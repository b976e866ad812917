"""Reads and validates request bodies; every failure is a 400 (or 408, 413, 415) that says why."""

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

MAX_MARKS = 1 << 20
"""Most commas, colons and quotation marks of a body. What is large only as text has few of them;
each may stand for an object that takes a hundred times its bytes, and microseconds, to read."""
MAX_FAULTS = 1 << 12
"""Beyond it a body's faults are not looked at: telling them takes a kilobyte each."""


_REASONS = {"none_required": "it is not supported; leave it out"}
"""What to say instead of what pydantic does, by the type of the fault."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What parameters of a body must be beside each other.

    Attributes:
        at: the parameter at fault when it does not hold; empty for the body itself.
        holds: whether a body obeys.
        schema: the same as JSON Schema, for the OpenAPI document.
        text: what to do.
    """

    at: tuple[str, ...]
    holds: Callable[[Any], bool]
    schema: dict[str, Any]
    text: str


def either(*alternatives: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema: one of these holds."""
    return {"anyOf": list(alternatives)}


def unless(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema: the parameter is absent or like this."""
    return {"properties": {name: schema}}


def given(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema: the parameter is there and like this."""
    return {"properties": {name: schema}, "required": [name]}


class Body(BaseModel):
    """Base of all request bodies: nothing unknown, nothing coerced.

    But a number without a fraction is an integer however it is written, as JSON Schema has it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class RuledBody(Body):
    """A body whose parameters must fit each other."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obey(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                told = {"text": rule.text, "at": rule.at}
                raise PydanticCustomError("rule", "{text}", told)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(core_schema)
        handler.resolve_ref_schema(described)["allOf"] = [rule.schema for rule in cls.rules]
        return described


BodyT = TypeVar("BodyT", bound=Body)


class ClientGone(Exception):
    """The client closed its connection; nobody reads an answer."""


def too_large(limit: int) -> RequestError:
    return RequestError(
        413,
        "body_too_large",
        f"the body is larger than {limit} bytes (POMONA_GATEWAY_MAX_BODY_BYTES)",
    )


async def read_body(request: Request, limit: int, deadline_s: float) -> bytes:
    """The whole body. Raises RequestError when it is packed, too large, or comes too slowly."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        message = f"a body in the encoding {encoding!r} is not read; send it as it is"
        raise RequestError(415, "unsupported_content_encoding", message)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError as error:
        raise RequestError(
            408,
            "body_timeout",
            f"the body did not arrive within {deadline_s:g} s (POMONA_GATEWAY_BODY_DEADLINE_S)",
        ) from error


def parse_body(kind: type[BodyT], body: bytes) -> BodyT:
    """Raises RequestError naming the parameter at fault."""
    if not body.strip():
        raise RequestError(400, "empty_body", "the body is empty; it must be a JSON object")
    _check_marks(body)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > MAX_FAULTS:
            message = f"the body has {error.error_count()} faults; they are not told one by one"
            raise RequestError(400, "invalid_value", message) from error
        if not any(_is_whole(detail) for detail in error.errors(include_url=False)):
            raise explain(error, body) from error
    mended = to_json(_with_integers(from_json(body)), inf_nan_mode="constants")
    try:
        return kind.model_validate_json(mended)
    except ValidationError as error:
        raise explain(error, mended) from error


def _check_marks(body: bytes) -> None:
    if sum(body.count(mark) for mark in b',:"') > MAX_MARKS:
        message = f"the body has more than {MAX_MARKS} commas, colons and quotation marks"
        raise RequestError(413, "body_too_large", message)


def _with_integers(value: Any) -> Any:
    """JSON with 1 for 1.0, which a float may be too."""
    match value:
        case float():
            return int(value) if value.is_integer() else value
        case list():
            return [_with_integers(x) for x in cast("list[Any]", value)]
        case dict():
            return {k: _with_integers(x) for k, x in cast("dict[str, Any]", value).items()}
        case _:
            return value


def _is_whole(detail: ErrorDetails) -> bool:
    given = detail["input"]
    return detail["type"] == "int_type" and isinstance(given, float) and given.is_integer()


def explain(error: ValidationError, body: bytes) -> RequestError:
    """The fault that says most, as a 400. Values that a client sent are not repeated."""
    details = error.errors(include_url=False, include_input=False)
    detail = max(details, key=_weight)
    if detail["type"] == "json_invalid":
        return RequestError(400, "invalid_json", f"the body is not JSON: {detail['msg']}")
    missing = detail["type"] == "missing"
    location = (*detail["loc"], *detail.get("ctx", {}).get("at", ()))
    name = parameter_name(location, from_json(body), missing)
    match detail["type"]:
        case "extra_forbidden":
            code, message = "unknown_parameter", f"unknown parameter: {name!r}"
        case "missing":
            code, message = "missing_required_parameter", f"missing parameter: {name!r}"
        case _:
            where = f"invalid {name!r}" if name else "invalid body"
            reason = _REASONS.get(detail["type"], detail["msg"])
            code, message = "invalid_value", f"{where}: {reason}"
    return RequestError(400, code, message, name or None)


def _weight(detail: ErrorDetails) -> tuple[int, int]:
    """Which of several faults is told: a wrong ``type``, which explains the others; then
    what is unknown; then the deepest, which is in the member of a union that was meant."""
    if detail["type"] == "literal_error" and detail["loc"][-1:] == ("type",):
        return 2, 0
    if detail["type"] == "extra_forbidden":
        return 1, 0
    return 0, len(detail["loc"])


def parameter_name(location: tuple[int | str, ...], body: Any, missing: bool = False) -> str:
    """``messages[0].content`` from where pydantic found the fault.

    pydantic names members of unions there too; what is not in the body is such a name.
    """
    name = ""
    for place, part in enumerate(location):
        last = place == len(location) - 1
        if isinstance(part, int):
            if isinstance(body, list) and part < len(items := cast("list[Any]", body)):
                name, body = f"{name}[{part}]", items[part]
        elif isinstance(body, dict):
            fields = cast("dict[str, Any]", body)
            if part in fields or (missing and last):
                name, body = f"{name}.{part}" if name else part, fields.get(part)
    return name
