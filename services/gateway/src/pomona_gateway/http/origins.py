"""Pure ASGI middleware that keeps foreign web pages from using the API through a browser.

A browser sends some requests of a page to any address without asking first: forms, and ``fetch``
with one of three media types (https://fetch.spec.whatwg.org/#simple-header). It names the page's
origin in ``Origin`` and its relation to the address in ``Sec-Fetch-Site``; no page can change them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pomona.errors import RequestError
from pomona_gateway.http.middleware import refuse

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing. A page of another origin cannot read the response."""
APP_SCHEMES = frozenset({"app", "file", "tauri", "vscode-file", "vscode-webview"})
"""Schemes of desktop applications, which no web page has as its origin."""
FORM = "application/x-www-form-urlencoded"
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)
OWN_ORIGINS = (
    r"https?://(?:(?:[\w-]+\.)*localhost|127(?:\.\d{1,3}){3}|\[::1\]|0\.0\.0\.0)(?::\d{1,5})?"
    rf"|(?:{'|'.join(sorted(APP_SCHEMES))})://.*"
)
"""Regular expression of the origins that are always allowed: those on this machine."""


class ForeignOrigins:
    """Refuses requests that change something and come from a page of a foreign origin (403), or
    that declare a body of another type than JSON (415).

    Args:
        allowed: origins like ``https://chat.example.com``, beside loopback addresses, desktop
            applications and the host that the request names; ``*`` allows every origin.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self._app = app
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in READING_METHODS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        error = self._check_origin(headers) or _check_type(headers, scope["path"])
        if error is None:
            await self._app(scope, receive, send)
        else:
            await refuse(error, scope, receive, send)

    def _check_origin(self, headers: Headers) -> RequestError | None:
        origins = headers.getlist("origin")
        if origins:
            host = headers.get("host", "")
            foreign = not all(self._is_allowed(origin, host) for origin in origins)
        else:
            foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
            foreign = foreign and "*" not in self._allowed
        if not foreign:
            return None
        message = (
            "web pages of this origin may not use the API; to allow one, add its origin to "
            "POMONA_GATEWAY_CORS_ORIGINS"
        )
        return RequestError(403, "origin_not_allowed", message)

    def _is_allowed(self, origin: str, host: str) -> bool:
        origin = origin.strip().lower()
        if "*" in self._allowed or origin in self._allowed:
            return True
        try:
            parts = urlsplit(origin)
            address = parts.hostname or ""
        except ValueError:
            return False
        if parts.scheme in APP_SCHEMES:
            return True
        if parts.scheme not in ("http", "https"):
            return False  # ``null``: a sandboxed frame of any page
        return parts.netloc == host.lower() or _is_this_machine(address)


def _is_this_machine(address: str) -> bool:
    if address == "localhost" or address.endswith(".localhost"):
        return True
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_loopback or found.is_unspecified


def _check_type(headers: Headers, path: str) -> RequestError | None:
    """Returns an error when a body is declared as something else than JSON.

    A body without a type is read as JSON. ``curl -d`` declares a form, and Ollama's documentation
    uses it so; on Ollama's paths that is accepted from clients that are not browsers.
    """
    declared = [value.partition(";")[0].strip() for value in headers.getlist("content-type")]
    wrong = [value for value in declared if value and not _JSON.fullmatch(value)]
    if not wrong:
        return None
    browser = "origin" in headers or "sec-fetch-site" in headers
    if path.startswith("/api/") and not browser and {x.lower() for x in wrong} == {FORM}:
        return None
    message = "the body must be JSON; send it with 'content-type: application/json'"
    return RequestError(415, "unsupported_media_type", message)
