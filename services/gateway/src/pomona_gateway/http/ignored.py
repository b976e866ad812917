"""Parameters without effect: collected while a request is prepared, and named to the client.

A body keeps undeclared parameters. ``collect_ignored`` finds them, with the
declared hints and the parts that are left out; a handler adds what this model has no use for.
``IgnoredHeader`` then names them in ``x-pomona-ignored``, counts them, and logs each path
once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import quote

from pydantic import BaseModel
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pomona.errors import RequestError
from pomona_gateway.http.errors import dialect_of
from pomona_gateway.http.request_body import Lenient

log = logging.getLogger(__name__)

HEADER = "x-pomona-ignored"
MAX_PATHS = 48
"""Maximum number of paths in the header; the number of others follows as ``+N``."""
MAX_PATH_CHARACTERS = 128

_INDEX = re.compile(r"\[\d+\]")


class IgnoredParameters:
    """The parameters of one request that have no effect, in the order in which they were found."""

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}
        self._more = 0

    def add(self, path: str) -> None:
        """Adds a path like ``messages[0].name``; an empty name becomes ``''``."""
        path = quote(path[:MAX_PATH_CHARACTERS], safe="[]._-+:$@/") or "''"
        if path in self._paths:
            return
        if len(self._paths) >= MAX_PATHS:
            self._more += 1
        else:
            self._paths[path] = None

    def header(self) -> str:
        """Returns the value of the header; empty when every parameter has an effect."""
        more = [f"+{self._more}"] if self._more else []
        return ", ".join([*self._paths, *more])

    def labels(self) -> set[str]:
        """Returns the paths without the indices of lists."""
        return {_INDEX.sub("", path) for path in self._paths}


def ignored_of(request: Request) -> IgnoredParameters:
    """Returns the collection of the request."""
    return request.state.ignored


def collect_ignored(model: Lenient, ignored: IgnoredParameters, refuse_unknown: bool) -> None:
    """Adds the hints, unknown parameters and left out parts of a body or query.

    Raises RequestError naming the first unknown parameter if ``refuse_unknown``.
    """
    for path, is_known in _without_effect(model, ""):
        if refuse_unknown and not is_known:
            name = path[:MAX_PATH_CHARACTERS]
            message = f"unknown parameter: {name!r} (POMONA_GATEWAY_UNKNOWN_PARAMETERS is 'refuse')"
            raise RequestError(400, "unknown_parameter", message, name)
        ignored.add(path)


def _without_effect(model: Lenient, path: str) -> Iterator[tuple[str, bool]]:
    """Yields each path without effect, and whether the API knows it."""
    if model.left_out:
        yield f"{path}.{getattr(model, 'type', None) or 'unknown'}", True
        return
    prefix = f"{path}." if path else ""
    for name, value in (model.model_extra or {}).items():
        if value is not None:
            yield f"{prefix}{name}", name in model.hints
    fields = type(model).model_fields
    for name in model.model_fields_set:
        if name in fields:
            yield from _in_value(getattr(model, name), f"{prefix}{fields[name].alias or name}")


def _in_value(value: Any, path: str) -> Iterator[tuple[str, bool]]:
    if isinstance(value, Lenient):
        yield from _without_effect(value, path)
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        # A list of numbers may be long, and has no parts.
        if items and isinstance(items[0], (BaseModel, str)):
            for index, item in enumerate(items):
                if isinstance(item, Lenient):
                    yield from _without_effect(item, f"{path}[{index}]")


class IgnoredHeader:
    """Names the ignored parameters of a request in its response, the metrics and the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ignored = scope.setdefault("state", {})["ignored"] = IgnoredParameters()

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start" and (names := ignored.header()):
                MutableHeaders(scope=message)[HEADER] = names
                self._record(scope, ignored)
            await send(message)

        await self._app(scope, receive, send_with_header)

    def _record(self, scope: Scope, ignored: IgnoredParameters) -> None:
        dialect = dialect_of(scope)
        for path in sorted(ignored.labels()):
            if scope["app"].state.gateway.metrics.observe_ignored(dialect, path):
                fields = {
                    "dialect": dialect,
                    "path": path,
                    "request": scope["state"].get("request_id", ""),
                }
                log.info("a parameter has no effect", extra=fields)
