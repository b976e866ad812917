"""Error objects of the OpenAI, Anthropic and Ollama dialects."""

from __future__ import annotations

from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Scope

from pomona.errors import RequestError
from pomona_gateway.text.limits import PromptTooLongError

MAX_RETRY_AFTER_S = 60
OWN_API = "/api/pomona/"
"""Paths of Pomona's own API. The other paths below ``/api`` are Ollama's."""


_OPENAI_TYPES = {
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


def openai_error(error: RequestError) -> dict[str, Any]:
    """Returns OpenAI's error object, for a response body or an event in a stream."""
    default = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": error.message,
            "type": _OPENAI_TYPES.get(error.status, default),
            "param": error.param,
            "code": error.code,
        }
    }


def anthropic_error(error: RequestError) -> dict[str, Any]:
    """Returns Anthropic's error object (https://docs.claude.com/en/api/errors)."""
    default = "invalid_request_error" if error.status < 500 else "api_error"
    error_type = _ANTHROPIC_TYPES.get(error.status, default)
    too_long = isinstance(error, PromptTooLongError)
    message = error.anthropic_message if too_long else error.message
    return {"type": "error", "error": {"type": error_type, "message": message}}


def error_body(error: RequestError, scope: Scope) -> dict[str, Any]:
    """Returns the error object of the dialect that the request used."""
    match dialect_of(scope):
        case "anthropic":
            request_id = scope.get("state", {}).get("request_id", "")
            return {**anthropic_error(error), "request_id": request_id}
        case "ollama":
            return {"error": error.message}
        case "openai":
            return openai_error(error)


def dialect_of(scope: Scope) -> Literal["openai", "anthropic", "ollama"]:
    """Returns the dialect of a request.

    ``/v1/models`` is shared with OpenAI; Anthropic's clients send ``anthropic-version`` there.
    """
    path: str = scope["path"]
    if path.startswith("/api/") and not path.startswith(OWN_API):
        return "ollama"
    if path.startswith("/v1/models") and "anthropic-version" in Headers(scope=scope):
        return "anthropic"
    return "anthropic" if path.startswith("/v1/messages") else "openai"


def retry_headers(error: RequestError) -> dict[str, str]:
    """Returns the ``retry-after`` header of an error, at most ``MAX_RETRY_AFTER_S`` seconds."""
    if error.retry_after_s is None:
        return {}
    return {"retry-after": str(min(max(error.retry_after_s, 1), MAX_RETRY_AFTER_S))}


def routing_error(request: Request, error: HTTPException, allowed: str) -> RequestError:
    """Converts Starlette's error for an unknown path or method.

    Args:
        allowed: the methods of the path, separated by commas.
    """
    target = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return RequestError(404, "not_found", f"there is no {target}")
    if error.status_code == 405:
        return RequestError(405, "method_not_allowed", f"{target} is not allowed; use {allowed}")
    return RequestError(error.status_code, "http_error", str(error.detail))


def internal_error() -> RequestError:
    """Returns the error for an exception that no handler expected."""
    return RequestError(
        500, "internal_error", "the gateway failed on this request; see the gateway's log"
    )
