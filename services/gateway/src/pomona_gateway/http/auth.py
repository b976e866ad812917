"""Who may come in: headers, host names and keys. Pure ASGI middleware."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pomona.auth.api_keys import ApiKey, KeyStore
from pomona.errors import RequestError
from pomona_gateway.http.errors import error_response

OPEN_PATHS = frozenset({"/health", "/readyz"})
ADMINISTRATOR_PATHS = frozenset({"/metrics", "/v1/models/load", "/v1/models/unload"})


class HeaderCount:
    """Refuses requests with too many headers."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or len(scope["headers"]) <= self._most:
            await self._app(scope, receive, send)
            return
        message = f"more than {self._most} headers (POMONA_GATEWAY_MAX_HEADERS)"
        await _refuse(RequestError(431, "too_many_headers", message), scope, receive, send)


class Hosts:
    """Refuses requests for other host names, so that a web page which points its own name
    at this address cannot use the API. Plain addresses are always allowed."""

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._allows(Headers(scope=scope).get("host", "")):
            await self._app(scope, receive, send)
            return
        message = "this host name is not allowed (POMONA_GATEWAY_ALLOWED_HOSTS)"
        await _refuse(RequestError(403, "host_not_allowed", message), scope, receive, send)

    def _allows(self, header: str) -> bool:
        if "*" in self._allowed:
            return True
        bracketed = header.startswith("[")
        name = header[1:].partition("]")[0] if bracketed else header.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self._allowed
        return True


class Keys:
    """Finds the key of every request and puts it into its state, as ``key``.

    Args:
        required: refuse requests without a key. Otherwise a request without one, or with
            something that is no key, is anybody's: many clients insist on sending one.
    """

    def __init__(self, app: ASGIApp, store: KeyStore, required: bool) -> None:
        self._app = app
        self._store = store
        self._required = required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        key = self._key(Headers(scope=scope))
        scope.setdefault("state", {})["key"] = key
        error = self._error(scope["path"], key)
        if error is None:
            await self._app(scope, receive, send)
        else:
            await _refuse(error, scope, receive, send)

    def _key(self, headers: Headers) -> ApiKey | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        secret = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return self._store.find(secret) if secret else None

    def _error(self, path: str, key: ApiKey | None) -> RequestError | None:
        if not self._required or path in OPEN_PATHS:
            return None
        if key is None:
            message = "no valid API key; send one as 'Authorization: Bearer ...' or 'x-api-key'"
            return RequestError(401, "invalid_api_key", message)
        if path in ADMINISTRATOR_PATHS and key.role != "administrator":
            return RequestError(403, "not_allowed", "only an administrator's key may do this")
        return None


async def _refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    scope["app"].state.gateway.count_error(error)
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    await error_response(error, scope, headers)(scope, receive, send)
