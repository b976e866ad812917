"""Pure ASGI middleware that holds each API key to its limits before any work is done for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pomona.auth.api_keys import ApiKey, KeyLimits
from pomona.errors import RequestError
from pomona_gateway.http.middleware import refuse
from pomona_gateway.rate_limits import RateLimits
from pomona_gateway.runs.run import Run
from pomona_gateway.tenant import set_tenant

FREE_PATHS = frozenset(
    {
        "/v1/models/load",
        "/v1/models/unload",
        "/api/show",
        "/api/pomona/v1/plan",
        "/api/pomona/v1/models/pull",
        "/api/pomona/v1/drain",
        "/api/pomona/v1/undrain",
    }
)
"""Paths of POST requests that make no prompt."""


@dataclass(slots=True)
class Admission:
    """One request that counts against the limits of its key until it is released."""

    limits: RateLimits
    key: str
    released: bool = False

    def release(self, tokens: int) -> None:
        """Counts the end of the request and its tokens. Does nothing when called again."""
        if not self.released:
            self.released = True
            self.limits.release(self.key, tokens, time.monotonic())


class KeyLimitCheck:
    """Refuses a request beyond the limits of its key (429), before its body is read.

    The :class:`Admission` of an admitted one is in the request's state. A request that the server
    fails to serve (a status of 500 and above) does not count as one of the minute.
    """

    def __init__(self, app: ASGIApp, limits: RateLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] in FREE_PATHS:
            await self._app(scope, receive, send)
            return
        key: ApiKey | None = scope["state"]["key"]
        admission = Admission(self._limits, key.id if key else "")
        set_tenant(admission.key)
        run: Run | None = scope["state"].get("run")
        try:
            if run is not None and run.origin.kind == "response":
                self._limits.enter(admission.key, time.monotonic())
            else:
                limits = key.limits if key else KeyLimits()
                self._limits.admit(admission.key, limits, time.monotonic())
        except RequestError as error:
            await refuse(error, scope, receive, send)
            return
        scope["state"]["admission"] = admission

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 500:
                self._limits.refund(admission.key)
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        finally:
            admission.release(0)
