"""Requests with an ``Idempotency-Key``: executed once, answered as often as they are sent.

The first request with a key starts a run. The same request, sent again while the run goes on or
within the time that ended runs are kept, gets the same response: replayed, then live. A request
whose response is an error is not kept, so that clients which try again can succeed. The key of
another request is a 422.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pomona.auth.api_keys import ApiKey
from pomona.errors import RequestError
from pomona_gateway.gateway import Gateway
from pomona_gateway.http.middleware import refuse
from pomona_gateway.http.request_body import ClientDisconnected, read_body
from pomona_gateway.http.respond import while_connected
from pomona_gateway.http.run_response import REPLAYED_HEADER, RunResponse
from pomona_gateway.runs.run import Run, RunRequest
from pomona_gateway.runs.run_registry import fingerprint_of

HEADER = "idempotency-key"

_KEY = re.compile(r"^[\x21-\x7e](?:[\x20-\x7e]{0,254}[\x21-\x7e])?$")
_KEPT_HEADERS = frozenset({"content-type", "accept", "anthropic-version", "anthropic-beta"})
"""Headers of a request that may change its response."""


class IdempotentRequests:
    """Answers requests with a key from runs. Also executes the requests of all runs.

    Args:
        application: returns the whole application, which handlers find in their scope.
    """

    def __init__(
        self, app: ASGIApp, gateway: Gateway, application: Callable[[], Starlette]
    ) -> None:
        self._app = app
        self._gateway = gateway
        self._application = application
        gateway.runs.execute = self._execute

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {}).setdefault("run", None)
        key = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if key is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            response = await self._respond(Request(scope, receive), key)
        except RequestError as error:
            await refuse(error, scope, receive, send)
        except ClientDisconnected:
            return
        else:
            await response(scope, receive, send)

    async def _respond(self, request: Request, key: str) -> RunResponse:
        gateway, settings = self._gateway, self._gateway.settings
        if not _KEY.match(key):
            message = f"invalid {HEADER!r}: it must have 1 to 256 printable ASCII characters"
            raise RequestError(400, "invalid_idempotency_key", message, HEADER)
        body = await read_body(request, settings.max_body_bytes, settings.body_deadline_s)
        content = kept_request(request, body)
        canonical, may_store = _canonical(body)
        fingerprint = fingerprint_of(content, canonical)
        api_key: ApiKey | None = request.state.key
        tenant = api_key.id if api_key else ""
        runs = gateway.runs
        await while_connected(request.receive, runs.wait_for_others(key=key, tenant=tenant))
        run = runs.find(key, tenant)
        if run is not None and run.origin.fingerprint != fingerprint:
            raise RequestError(
                422,
                "idempotency_key_reused",
                f"another request was sent with this {HEADER!r}; use a new key for each request",
                HEADER,
            )
        headers = () if run is None else (REPLAYED_HEADER,)
        if run is None:
            gateway.check_accepting()
            run = runs.start(
                "request", content, tenant, key=key, fingerprint=fingerprint, on_disk=may_store
            )
        return RunResponse(run, settings.keep_alive_s, settings.stall_deadline_s, headers=headers)

    async def _execute(self, run: Run) -> None:
        """Executes the request of a run, and records the response."""
        request, tenant = run.origin.request, run.origin.tenant
        key = next((key for key in self._gateway.keys.list() if key.id == tenant), None)
        if tenant and key is None:
            raise RequestError(401, "invalid_api_key", "the API key of this request was revoked")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": None,
            "client": None,
            "scheme": "http",
            "method": "POST",
            "root_path": "",
            "path": request.path,
            "raw_path": request.path.encode(),
            "query_string": request.query.encode("latin-1"),
            "headers": [
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers
            ],
            "state": {"request_id": run.id, "key": key, "run": run},
            "app": self._application(),
        }
        has_body = False

        async def receive() -> Message:
            nonlocal has_body
            if has_body:
                # A run has no client that could disconnect.
                await asyncio.get_running_loop().create_future()
            has_body = True
            return {"type": "http.request", "body": request.body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                run.record_start(message["status"], list(message["headers"]))
            else:
                run.record_part(message.get("body", b""))

        await self._app(scope, receive, send)


def kept_request(request: Request, body: bytes) -> RunRequest:
    """Returns what a run keeps of a request whose body has been read."""
    headers = tuple((name, x) for name, x in request.headers.items() if name in _KEPT_HEADERS)
    scope = request.scope
    return RunRequest(scope["path"], scope["query_string"].decode("latin-1"), headers, body)


def _canonical(body: bytes) -> tuple[bytes, bool]:
    """Returns the body without regard to the order of its keys, and whether it may be stored."""
    try:
        value = orjson.loads(body)
        canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, TypeError):
        return body, True
    return canonical, not (isinstance(value, dict) and value.get("store") is False)
