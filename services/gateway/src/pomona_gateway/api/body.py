"""Reads and validates request bodies; every failure is a 400 (or 408, 413) that says why."""

from __future__ import annotations

import asyncio
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from pomona.errors import RequestError


class Body(BaseModel):
    """Base of all request bodies: nothing unknown, nothing coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


BodyT = TypeVar("BodyT", bound=Body)

_FIELD = re.compile(r"^[A-Za-z_$][A-Za-z0-9_$.-]{0,127}$")


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
        raise explain(kind, error) from error


def explain(kind: type[BaseModel], error: ValidationError) -> RequestError:
    """The first thing wrong, as a 400. What a client sent is not repeated."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    detail = next((x for x in details if x["type"] == "extra_forbidden"), details[0])
    # Of the members of a union the deepest complaint is about the one that was meant.
    if detail["type"] != "extra_forbidden":
        root = detail["loc"][:1]
        detail = max((x for x in details if x["loc"][:1] == root), key=lambda x: len(x["loc"]))
    name = parameter_name(detail["loc"])
    match detail["type"]:
        case "json_invalid":
            return RequestError(400, "invalid_json", f"the body is not JSON: {detail['msg']}")
        case "extra_forbidden":
            return RequestError(
                400, "unknown_parameter", f"unknown parameter: {name!r}", name or None
            )
        case "missing":
            return RequestError(
                400, "missing_required_parameter", f"missing parameter: {name!r}", name or None
            )
        case _:
            where = f"invalid {name!r}" if name else "invalid body"
            return RequestError(400, "invalid_value", f"{where}: {_reason(detail)}", name or None)


def _reason(detail: Any) -> str:
    message = str(detail["msg"])
    return message.removeprefix("Value error, ")


def parameter_name(location: tuple[int | str, ...]) -> str:
    """``messages[0].content`` from where pydantic found the fault.

    pydantic also names the member of a union there; those are no fields of the body:
    the tag after an index, type names, and what holds brackets.
    """
    name = ""
    after_index = False
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
            after_index = True
            continue
        tag = (after_index and part in _TAGS) or part in _TYPE_NAMES or not _FIELD.match(part)
        after_index = False
        if not tag:
            name += f".{part}" if name else part
    return name


_TYPE_NAMES = {"str", "int", "float", "bool", "dict", "list", "none"}
_TAGS = {
    "system", "developer", "user", "assistant", "tool", "text", "function", "refusal",
    "thinking", "redacted_thinking", "tool_use", "tool_result",
}  # fmt: skip
