"""Ollama's ``/api/tags``, ``/api/ps``, ``/api/show`` and ``/api/version``
(https://github.com/ollama/ollama/blob/main/docs/api.md)."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pomona import __version__
from pomona.models import ModelFacts
from pomona_gateway.gateway import Gateway
from pomona_gateway.http.common.reasoning import can_reason
from pomona_gateway.http.common.run_request import gateway_of, read_request
from pomona_gateway.http.ollama.chat_request import ShowRequest
from pomona_gateway.http.respond import JsonResponse

FOREVER = "9999-12-31T23:59:59Z"


async def tags(request: Request) -> Response:
    """Lists all models of the cluster."""
    gateway = gateway_of(request)
    names = gateway.models.names()
    return JsonResponse({"models": [_entry(gateway, name) for name in names]})


async def ps(request: Request) -> Response:
    """Lists the models that are ready."""
    gateway = gateway_of(request)
    models = [
        {
            **_entry(gateway, name),
            "expires_at": FOREVER,
            "size_vram": _size(gateway, name),
            "context_length": gateway.models.context_length(name) or 0,
        }
        for name in sorted(gateway.verified_routes.epochs())
    ]
    return JsonResponse({"models": models})


async def show(request: Request) -> Response:
    """Describes one model: its template, its sizes and its capabilities."""
    body = await read_request(request, ShowRequest)
    gateway = gateway_of(request)
    name, language = gateway.models.find(body.model)
    facts = language.facts
    template = language.templates.get("default")
    # A model whose template does not render tools is taught to call them by its prompt.
    capabilities = ["completion", "tools"] if template else ["completion"]
    if facts.pooling:
        capabilities = ["embedding"]
    elif can_reason(language):
        capabilities.append("thinking")
    entry = _entry(gateway, name)
    return JsonResponse(
        {
            "modified_at": entry["modified_at"],
            "template": template.source if template else "",
            "details": entry["details"],
            "model_info": {
                "general.architecture": facts.architecture,
                "general.parameter_count": facts.parameters,
                f"{facts.architecture}.block_count": facts.layer_count,
                f"{facts.architecture}.context_length": language.context_length,
                f"{facts.architecture}.embedding_length": facts.hidden_size,
                f"{facts.architecture}.vocab_size": facts.vocab_size,
            },
            "capabilities": capabilities,
        }
    )


async def root(request: Request) -> Response:
    """Answers health checks: a text, or JSON for clients that accept nothing else."""
    if request.headers.get("accept", "") == "application/json":
        gateway = gateway_of(request)
        facts = {"name": "Pomona", "version": __version__, "models": gateway.models.names()}
        return JsonResponse(facts)
    return Response("Pomona is running", media_type="text/plain")


async def version(request: Request) -> Response:
    """Returns Pomona's version."""
    return JsonResponse({"version": __version__})


def timestamp(seconds: float) -> str:
    """Formats Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _size(gateway: Gateway, name: str) -> int:
    return sum(stage.total_bytes for stage in gateway.route_table.stages(name))


def _entry(gateway: Gateway, name: str) -> dict[str, Any]:
    source = gateway.models.source(name)
    details = _details(gateway.models.facts(name))
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(gateway.models.created(name)),
        "size": _size(gateway, name),
        "digest": hashlib.sha256(f"{name} {source}".encode()).hexdigest(),
        "details": {
            **details,
            "families": [details["family"]] if details["family"] else [],
            "parent_model": "",
        },
    }


def _details(facts: ModelFacts | None) -> dict[str, str]:
    if facts is None:
        return dict.fromkeys(("format", "family", "parameter_size", "quantization_level"), "")
    return {
        "format": facts.format,
        "family": facts.architecture,
        "parameter_size": human_number(facts.parameters),
        "quantization_level": quantization_level(facts.quantization),
    }


def human_number(number: int) -> str:
    """Formats a parameter count as Ollama does: ``134.52M``, ``8B``, ``30.5B``."""
    for size, unit, places in ((10**9, "B", 1), (10**6, "M", 2)):
        if number >= size:
            return f"{number / size:.{0 if number % size == 0 else places}f}{unit}"
    return f"{number / 1000:.0f}K" if number >= 1000 else str(number)


def quantization_level(quantization: str) -> str:
    """Formats a quantisation as Ollama does: ``BF16``, ``Q4_K_M``, ``MXFP4``.

    MLX's affine four bits are ``Q4``.
    """
    plain = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
    if found := re.match(r"(\d+)-bit (\w+)", quantization):
        bits, mode = found.groups()
        return f"Q{bits}" if mode == "affine" else mode.upper()
    return plain.get(quantization, quantization.upper())
