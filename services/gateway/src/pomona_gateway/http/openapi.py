"""The paths of the API, and the OpenAPI document made of the models that validate them
(https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pomona import __version__
from pomona_gateway.http.admin import health
from pomona_gateway.http.admin import models as admin_models
from pomona_gateway.http.admin.models import ModelBody
from pomona_gateway.http.anthropic import messages
from pomona_gateway.http.anthropic.messages_request import CountRequest, MessagesRequest
from pomona_gateway.http.ollama import chat as ollama
from pomona_gateway.http.ollama import models as ollama_models
from pomona_gateway.http.ollama.chat_request import OllamaChat, OllamaGenerate, ShowRequest
from pomona_gateway.http.openai.chat import ChatRequest, chat_completions
from pomona_gateway.http.openai.completions import CompletionRequest, completions
from pomona_gateway.http.openai.embeddings import EmbeddingRequest, embeddings
from pomona_gateway.http.openai.response_endpoints import (
    ItemsQuery,
    NoQuery,
    delete_response,
    get_response,
    input_items,
)
from pomona_gateway.http.openai.responses import responses
from pomona_gateway.http.openai.responses_request import ResponsesRequest
from pomona_gateway.http.query import Query

_STREAMS = "text/event-stream"
_LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``stream``: the media type of a streamed answer."""

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response | ASGIApp]]
    body: type[BaseModel] | None = None
    query: type[Query] | None = None
    stream: str = ""
    answer: str = "application/json"
    status: int = 200


OPERATIONS = (
    Operation("GET", "/health", health.health),
    Operation("GET", "/readyz", health.readyz),
    Operation("GET", "/metrics", health.metrics, answer="text/plain"),
    Operation("GET", "/v1/models", health.list_models),
    Operation("POST", "/v1/models/load", admin_models.load, ModelBody, status=202),
    Operation("POST", "/v1/models/unload", admin_models.unload, ModelBody, status=202),
    Operation("GET", "/v1/models/{model}", health.get_model),
    Operation("POST", "/v1/chat/completions", chat_completions, ChatRequest, stream=_STREAMS),
    Operation("POST", "/v1/completions", completions, CompletionRequest, stream=_STREAMS),
    Operation("POST", "/v1/responses", responses, ResponsesRequest, stream=_STREAMS),
    Operation("GET", "/v1/responses/{response}", get_response, query=NoQuery),
    Operation("DELETE", "/v1/responses/{response}", delete_response, query=NoQuery),
    Operation("GET", "/v1/responses/{response}/input_items", input_items, query=ItemsQuery),
    Operation("POST", "/v1/embeddings", embeddings, EmbeddingRequest),
    Operation("POST", "/v1/messages", messages.messages, MessagesRequest, stream=_STREAMS),
    Operation("POST", "/v1/messages/count_tokens", messages.count_tokens, CountRequest),
    Operation("POST", "/api/chat", ollama.chat, OllamaChat, stream=_LINES),
    Operation("POST", "/api/generate", ollama.generate, OllamaGenerate, stream=_LINES),
    Operation("GET", "/api/tags", ollama_models.tags),
    Operation("GET", "/api/ps", ollama_models.ps),
    Operation("POST", "/api/show", ollama_models.show, ShowRequest),
    Operation("GET", "/api/version", ollama_models.version),
)

_REFUSALS = {
    "400": "The request cannot be honoured; the message names the parameter.",
    "401": "A key is needed.",
    "403": "The key or the host name is not allowed.",
    "408": "The request came too slowly, or its reply was read too slowly.",
    "431": "The headers are too many or too large.",
}
_NOT_FOUND = {"404": "There is no such model or response."}
_BODY_REFUSALS = {
    **_NOT_FOUND,
    "413": "The body is too large.",
    "415": "The body is packed (``content-encoding``).",
    "429": "Too much at once; see Retry-After.",
    "503": "The model cannot answer now; see Retry-After.",
    "504": "The pipeline let a deadline pass.",
}
_HEADERS = {"x-request-id": {"required": True, "schema": {"type": "string"}}}


def _strict(properties: dict[str, Any]) -> dict[str, Any]:
    required = sorted(properties)
    return {"type": "object", "properties": properties, "required": required}


_TEXT: dict[str, Any] = {"type": "string"}
_TEXT_OR_NONE: dict[str, Any] = {"type": ["string", "null"]}
_EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {"event": _TEXT, "data": _TEXT},
    "required": ["data"],
}
"""One of a stream's."""
_ERRORS: dict[str, dict[str, Any]] = {
    "Error": _strict(
        {
            "error": _strict(
                {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": _TEXT_OR_NONE,
                    "code": _TEXT_OR_NONE,
                }
            )
        }
    ),
    "AnthropicError": _strict(
        {
            "type": {"const": "error"},
            "error": _strict({"type": _TEXT, "message": _TEXT}),
            "request_id": _TEXT,
        }
    ),
    "OllamaError": _strict({"error": _TEXT}),
}


def _document() -> dict[str, Any]:
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    _, schemas = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pomona", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**schemas.get("$defs", {}), **_ERRORS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _describe(operation: Operation) -> dict[str, Any]:
    summary = (operation.handler.__doc__ or "").strip().split("\n")[0]
    content: dict[str, Any] = {operation.answer: {"schema": _answer_schema(operation)}}
    if operation.stream:
        content[operation.stream] = {"schema": _EVENT if operation.stream == _STREAMS else _TEXT}
    told = {"description": "The answer.", "headers": _HEADERS, "content": content}
    responses: dict[str, Any] = {str(operation.status): told}
    for status, text in _refusals(operation).items():
        responses[status] = {
            "description": text,
            "headers": _HEADERS,
            "content": {"application/json": {"schema": _error_schema(operation.path)}},
        }
    if operation.path == "/readyz":
        responses["503"] = {**told, "description": "Not ready; the body says why."}
    described: dict[str, Any] = {"summary": summary, "responses": responses}
    if operation.body is not None:
        reference = {"$ref": f"#/components/schemas/{operation.body.__name__}"}
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": reference}},
        }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    if operation.query is not None:
        parameters += [
            {"name": name, "in": "query", "schema": schema}
            for name, schema in operation.query.model_json_schema()["properties"].items()
        ]
    if parameters:
        described["parameters"] = parameters
    return described


def _refusals(operation: Operation) -> dict[str, str]:
    if operation.body is not None:
        return {**_REFUSALS, **_BODY_REFUSALS}
    return {**_REFUSALS, **_NOT_FOUND} if "{" in operation.path else _REFUSALS


def _error_schema(path: str) -> dict[str, Any]:
    """As :func:`pomona_gateway.http.errors.error_response` writes it."""
    name = "Error"
    if path.startswith("/v1/messages"):
        name = "AnthropicError"
    elif path.startswith("/api/"):
        name = "OllamaError"
    return {"$ref": f"#/components/schemas/{name}"}


def _answer_schema(operation: Operation) -> dict[str, Any]:
    return {"type": "object" if operation.answer == "application/json" else "string"}


DOCUMENT = _document()
