"""Middleware that finds the meant path: clients add slashes, and leave out or repeat ``/v1``."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_SLASHES = re.compile(r"/{2,}")
_VERSIONED = re.compile(
    r"/(chat/completions|completions|embeddings|responses|messages|models)(?=/|$)"
)
"""Paths that are under ``/v1``."""


def meant_path(path: str) -> str:
    """Returns the path of the route that a client means."""
    path = _SLASHES.sub("/", path)
    path = path.rstrip("/") or "/"
    while path.startswith("/v1/v1/"):
        path = path.removeprefix("/v1")
    return f"/v1{path}" if _VERSIONED.match(path) else path


class MeantPaths:
    """Replaces the path of every request by the path that is meant."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": meant_path(scope["path"])}
        await self._app(scope, receive, send)
