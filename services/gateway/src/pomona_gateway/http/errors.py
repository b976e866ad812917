"""Errors as the dialects show them."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from pomona.errors import RequestError
from pomona_gateway.http.json_response import JsonResponse

MAX_RETRY_AFTER_S = 60

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_type(status: int) -> str:
    default = "invalid_request_error" if status < 500 else "server_error"
    return _TYPES.get(status, default)


def error_body(error: RequestError) -> dict[str, Any]:
    """OpenAI's error object, for an answer or an event in a stream."""
    return {
        "error": {
            "message": error.message,
            "type": error_type(error.status),
            "param": error.param,
            "code": error.code,
        }
    }


def retry_headers(error: RequestError) -> dict[str, str]:
    if error.retry_after_s is None:
        return {}
    return {"retry-after": str(min(max(error.retry_after_s, 1), MAX_RETRY_AFTER_S))}


def from_http(request: Request, error: HTTPException, allowed: str) -> RequestError:
    """What Starlette raises for a path or method that is not there, where others are allowed."""
    target = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return RequestError(404, "not_found", f"there is no {target}")
    if error.status_code == 405:
        return RequestError(405, "method_not_allowed", f"{target} is not allowed; use {allowed}")
    return RequestError(error.status_code, "http_error", str(error.detail))


def internal_error() -> RequestError:
    return RequestError(
        500, "internal_error", "the gateway failed on this request; its log says why"
    )


def speaks_anthropic(scope: Scope) -> bool:
    """Whether a request came from one of Anthropic's clients."""
    path: str = scope["path"]
    asked = path.startswith("/v1/models") and "anthropic-version" in Headers(scope=scope)
    return asked or path.startswith("/v1/messages")


def error_response(
    error: RequestError, scope: Scope, headers: dict[str, str] | None = None
) -> Response:
    """An error in the form of the dialect that the request was in."""
    body: dict[str, Any]
    if speaks_anthropic(scope):
        request_id = scope.get("state", {}).get("request_id", "")
        body = {**anthropic_error(error), "request_id": request_id}
    elif scope["path"].startswith("/api/"):
        body = {"error": error.message}
    else:
        body = error_body(error)
    return JsonResponse(body, error.status, {**(headers or {}), **retry_headers(error)})


def anthropic_error(error: RequestError) -> dict[str, Any]:
    """Anthropic's error object (https://docs.claude.com/en/api/errors)."""
    default = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(error.status, default)
    return {"type": "error", "error": {"type": kind, "message": error.message}}
