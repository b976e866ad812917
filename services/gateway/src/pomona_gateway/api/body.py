"""Reads and validates request bodies; every failure is a 400 (or 408, 413) that says why."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json
from starlette.requests import Request

from pomona.errors import RequestError


class Body(BaseModel):
    """Base of all request bodies: nothing unknown, nothing coerced.

    But a number without a fraction is an integer however it is written, as JSON Schema has it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


MAX_FAULTS = 1 << 16
"""Beyond it a body's faults are not looked at: telling them takes a kilobyte each."""

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
    """The whole body. Raises RequestError when it is too large or comes too slowly."""
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
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > MAX_FAULTS:
            message = f"the body has {error.error_count()} faults; they are not told one by one"
            raise RequestError(400, "invalid_value", message) from error
        mended = _with_integers(error, body)
        if mended is None:
            raise explain(error, body) from error
    try:
        return kind.model_validate_json(mended)
    except ValidationError as error:
        raise explain(error, mended) from error


def _with_integers(error: ValidationError, body: bytes) -> bytes | None:
    """The body with 1.0 as 1 wherever the fault was that an integer is wanted; None when that
    was no fault of it."""
    wrong = [x["loc"] for x in error.errors(include_url=False) if _is_whole(x)]
    if not wrong:
        return None
    content = from_json(body)
    for location in wrong:
        holder, key = content, None
        value = content
        for part in location:
            try:
                value, holder, key = value[part], value, part
            except (KeyError, IndexError, TypeError):
                continue  # the name of a union's member
        if isinstance(value, float):
            holder[key] = int(value)
    return to_json(content)


def _is_whole(detail: ErrorDetails) -> bool:
    given = detail["input"]
    return detail["type"] == "int_type" and isinstance(given, float) and given.is_integer()


def explain(error: ValidationError, body: bytes) -> RequestError:
    """The fault that says most, as a 400. Values that a client sent are not repeated."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    detail = max(details, key=_weight)
    if detail["type"] == "json_invalid":
        return RequestError(400, "invalid_json", f"the body is not JSON: {detail['msg']}")
    missing = detail["type"] == "missing"
    name = parameter_name(detail["loc"], from_json(body), missing)
    match detail["type"]:
        case "extra_forbidden":
            code, message = "unknown_parameter", f"unknown parameter: {name!r}"
        case "missing":
            code, message = "missing_required_parameter", f"missing parameter: {name!r}"
        case _:
            where = f"invalid {name!r}" if name else "invalid body"
            reason = detail["msg"].removeprefix("Value error, ")
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
