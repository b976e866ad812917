"""The OpenAPI document, generated from the routes and the models that validate their bodies
(https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from pomona import __version__
from pomona_gateway.http.errors import OWN_API
from pomona_gateway.http.routes import OPERATIONS, SSE, Operation

_ERRORS = {
    "400": "The request is not valid or not supported; the message names the parameter.",
    "401": "An API key is needed.",
    "403": "The key or the host name is not allowed.",
    "408": "The request arrived too slowly, or the response was read too slowly.",
    "431": "The headers are too many or too large.",
}
_NOT_FOUND = {"404": "There is no such model, response or log."}
_BODY_ERRORS = {
    **_NOT_FOUND,
    "413": "The body is too large.",
    "415": "The body's ``content-encoding`` is not supported.",
    "429": "A limit is reached; see Retry-After.",
    "503": "The model cannot answer now; see Retry-After.",
    "504": "The pipeline did not answer before its deadline.",
}
_OWN_ERRORS = {
    "409": "The command refuses; the message says why.",
    "429": "Others are being computed; see Retry-After.",
    "501": "The `pomona` command is not installed beside the gateway.",
    "503": "Too many pages are open, or the gateway shuts down; see Retry-After.",
    "504": "The command did not end before its deadline.",
}
_HEADERS = {
    "x-request-id": {"required": True, "schema": {"type": "string"}},
    "x-pomona-ignored": {
        "description": "Parameters without effect.",
        "schema": {"type": "string"},
    },
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    required = sorted(properties)
    return {"type": "object", "properties": properties, "required": required}


_TEXT: dict[str, Any] = {"type": "string"}
_TEXT_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}
_EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {"event": _TEXT, "data": _TEXT},
    "required": ["data"],
}
_ERROR_SCHEMAS: dict[str, dict[str, Any]] = {
    "Error": _object(
        {
            "error": _object(
                {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": _TEXT_OR_NULL,
                    "code": _TEXT_OR_NULL,
                }
            )
        }
    ),
    "AnthropicError": _object(
        {
            "type": {"const": "error"},
            "error": _object({"type": _TEXT, "message": _TEXT}),
            "request_id": _TEXT,
        }
    ),
    "OllamaError": _object({"error": _TEXT}),
}


class _AnyOf(GenerateJsonSchema):
    """Describes unions by ``anyOf``: objects with additional properties may match several."""

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        described = super().tagged_union_schema(schema)
        if "oneOf" in described:
            described["anyOf"] = described.pop("oneOf")
        return described


def _document() -> dict[str, Any]:
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    _, schemas = models_json_schema(
        [(body, "validation") for body in bodies],
        ref_template="#/components/schemas/{model}",
        schema_generator=_AnyOf,
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pomona", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**schemas.get("$defs", {}), **_ERROR_SCHEMAS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _describe(operation: Operation) -> dict[str, Any]:
    summary = (operation.handler.__doc__ or "").strip().split("\n")[0]
    described: dict[str, Any] = {"summary": summary, "responses": _responses(operation)}
    if operation.body is not None:
        reference = {"$ref": f"#/components/schemas/{operation.body.__name__}"}
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": reference}},
        }
    if parameters := _parameters(operation):
        described["parameters"] = parameters
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    kind = "object" if operation.response == "application/json" else "string"
    content: dict[str, Any] = {operation.response: {"schema": {"type": kind}}}
    if operation.stream:
        content[operation.stream] = {"schema": _EVENT if operation.stream == SSE else _TEXT}
    success = {"description": "The response.", "headers": _HEADERS, "content": content}
    responses: dict[str, Any] = {str(operation.status): success}
    for status, text in _errors(operation).items():
        responses[status] = {
            "description": text,
            "headers": _HEADERS,
            "content": {"application/json": {"schema": _error_schema(operation.path)}},
        }
    if operation.path == "/readyz":
        responses["503"] = {**success, "description": "Not ready; the body gives the reason."}
    return responses


def _errors(operation: Operation) -> dict[str, str]:
    own = _OWN_ERRORS if operation.path.startswith(OWN_API) else {}
    if operation.body is not None:
        return {**_ERRORS, **_BODY_ERRORS, **own}
    if own:
        return {**_ERRORS, **(_NOT_FOUND if operation.query is not None else {}), **own}
    return {**_ERRORS, **_NOT_FOUND} if "{" in operation.path else _ERRORS


def _error_schema(path: str) -> dict[str, Any]:
    """Returns a reference to the schema of :func:`pomona_gateway.http.errors.error_body`."""
    name = "Error"
    if path.startswith("/v1/messages"):
        name = "AnthropicError"
    elif path.startswith("/api/") and not path.startswith(OWN_API):
        name = "OllamaError"
    return {"$ref": f"#/components/schemas/{name}"}


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    if operation.query is not None:
        parameters += [
            {"name": name, "in": "query", "schema": schema}
            for name, schema in operation.query.model_json_schema()["properties"].items()
        ]
    return parameters


DOCUMENT = _document()
