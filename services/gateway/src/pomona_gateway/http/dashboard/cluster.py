"""``GET /api/pomona/v1/cluster`` and the stream of its changes."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona import __version__
from pomona.auth.api_keys import ApiKey
from pomona_gateway.http import sse
from pomona_gateway.http.common.run_request import gateway_of
from pomona_gateway.http.errors import openai_error
from pomona_gateway.http.respond import JsonResponse, StreamedResponse


async def cluster(request: Request) -> Response:
    """Returns the state of the cluster: what ``pomona status --json`` prints."""
    return JsonResponse(gateway_of(request).feed.report())


async def events(request: Request) -> Response | ASGIApp:
    """Streams the state of the cluster, and what changes, at most once a second."""
    gateway = gateway_of(request)
    gateway.check_accepting()
    return StreamedResponse(
        gateway.feed.open_page(_hello(request)),
        lambda error: sse.event("error", openai_error(error)),
        sse.MEDIA_TYPE,
        gateway.settings.stall_deadline_s,
        on_end=lambda: None,
        keep_alive_s=gateway.settings.keep_alive_s,
        encode_keep_alive=lambda: sse.WORKING,
    )


def role_of(request: Request) -> str:
    """Returns the role of the request's key. Without required keys everyone is an administrator."""
    key: ApiKey | None = request.state.key
    if not gateway_of(request).requires_key:
        return "administrator"
    return key.role if key else ""


def _hello(request: Request) -> dict[str, Any]:
    gateway = gateway_of(request)
    return {
        "version": __version__,
        "node": gateway.settings.node,
        "cluster": gateway.settings.cluster,
        "role": role_of(request),
        "keys_required": gateway.requires_key,
        "now": time.time(),
    }
