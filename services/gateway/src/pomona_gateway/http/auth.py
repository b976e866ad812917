"""Pure ASGI middleware that checks the host name and the API key of every request."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pomona.auth.api_keys import ApiKey, KeyStore
from pomona.errors import ConfigurationError, RequestError
from pomona_gateway.http.dashboard.page import is_page_request
from pomona_gateway.http.middleware import refuse
from pomona_gateway.tenant import set_tenant

OPEN_PATHS = frozenset({"/health", "/readyz"})
"""Paths that never need a key."""
ADMINISTRATOR_PATHS = frozenset(
    {
        "/metrics",
        "/v1/models/load",
        "/v1/models/unload",
        "/api/pomona/v1/models/pull",
        "/api/pomona/v1/drain",
        "/api/pomona/v1/undrain",
        "/api/pomona/v1/placement",
        "/api/pomona/v1/nodes",
        "/api/pomona/v1/nodes/invite",
        "/api/pomona/v1/nodes/approve",
        "/api/pomona/v1/nodes/revoke",
        "/api/pomona/v1/logs",
    }
)


class AllowedHosts:
    """Refuses requests whose ``host`` header names another host (403).

    This stops DNS rebinding: a web page whose name points at this address cannot use the API.
    IP addresses are always allowed, and ``*`` allows every name.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host")
        # Only HTTP/1.0 allows requests without a host, and no browser uses it.
        if scope["type"] != "http" or host is None or self._is_allowed(host):
            await self._app(scope, receive, send)
            return
        message = "this host name is not allowed (POMONA_GATEWAY_ALLOWED_HOSTS)"
        await refuse(RequestError(403, "host_not_allowed", message), scope, receive, send)

    def _is_allowed(self, header: str) -> bool:
        if "*" in self._allowed:
            return True
        bracketed = header.startswith("[")
        name = header[1:].partition("]")[0] if bracketed else header.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self._allowed
        return True


class KeyAuthentication:
    """Looks up the API key of every request and stores it in the request's state as ``key``.

    Args:
        required: refuse requests without a valid key. Otherwise they pass with ``key`` None,
            since many clients insist on sending some key.
    """

    def __init__(self, app: ASGIApp, store: KeyStore, required: bool) -> None:
        self._app = app
        self._store = store
        self._required = required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        key, error = None, None
        if scope["path"] not in OPEN_PATHS:
            try:
                key = self._find_key(Headers(scope=scope))
            except ConfigurationError:
                message = "the file of API keys cannot be read; see the gateway's log"
                error = RequestError(503, "keys_unreadable", message) if self._required else None
        scope.setdefault("state", {})["key"] = key
        set_tenant(key.id if key else "")
        error = error or self._check(scope, key)
        if error is None:
            await self._app(scope, receive, send)
        else:
            await refuse(error, scope, receive, send)

    def _find_key(self, headers: Headers) -> ApiKey | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        secret = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return self._store.find(secret) if secret else None

    def _check(self, scope: Scope, key: ApiKey | None) -> RequestError | None:
        path: str = scope["path"]
        if not self._required or path in OPEN_PATHS or is_page_request(scope):
            return None
        if key is None:
            message = "no valid API key; send one as 'Authorization: Bearer ...' or 'x-api-key'"
            return RequestError(401, "invalid_api_key", message)
        if path in ADMINISTRATOR_PATHS and key.role != "administrator":
            return RequestError(403, "not_allowed", "this path needs an administrator's key")
        return None
