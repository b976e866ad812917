"""``/api/tags``, ``/api/ps``, ``/api/show`` and ``/api/version`` of Ollama's API."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pomona import __version__
from pomona.errors import RequestError
from pomona.models import ModelFacts
from pomona_gateway.gateway import Gateway
from pomona_gateway.http.common.run_request import gateway_of, receive
from pomona_gateway.http.json_response import JsonResponse
from pomona_gateway.http.ollama.chat_request import ShowRequest
from pomona_gateway.text import LanguageModel
from pomona_gateway.text.prompts import knows_tools

FOREVER = "9999-12-31T23:59:59Z"


async def tags(request: Request) -> Response:
    """Every model of the cluster."""
    gateway = gateway_of(request)
    names = gateway.catalogue.names()
    return JsonResponse({"models": [_entry(gateway, name) for name in names]})


async def ps(request: Request) -> Response:
    """The models that answer now."""
    gateway = gateway_of(request)
    models = [
        {
            **_entry(gateway, name),
            "expires_at": FOREVER,
            "size_vram": _size(gateway, name),
            "context_length": gateway.catalogue.context_length(name) or 0,
        }
        for name in sorted(gateway.engine.proven_epochs())
    ]
    return JsonResponse({"models": models})


async def show(request: Request) -> Response:
    """One model: its template, its limits, what it can do."""
    asked = await receive(request, ShowRequest)
    gateway = gateway_of(request)
    name, language = find(gateway, asked.model)
    facts = language.facts
    template = language.templates.get("default")
    abilities = ["completion"]
    if knows_tools(language):
        abilities.append("tools")
    if language.output.reasons:
        abilities.append("thinking")
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
            "capabilities": abilities,
        }
    )


async def version(request: Request) -> Response:
    return JsonResponse({"version": __version__})


def find(gateway: Gateway, name: str) -> tuple[str, LanguageModel]:
    """A model by its name, which Ollama's clients may end with ``:latest``."""
    try:
        return gateway.catalogue.find(name)
    except RequestError as error:
        if error.status != 404 or not name.endswith(":latest"):
            raise
        return gateway.catalogue.find(name.removesuffix(":latest"))


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _size(gateway: Gateway, name: str) -> int:
    return sum(stage.total_bytes for stage in gateway.engine.table.stages(name))


def _entry(gateway: Gateway, name: str) -> dict[str, Any]:
    pipeline = gateway.engine.table.pipelines[name]
    details = _details(gateway.catalogue.facts(name))
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(gateway.catalogue.created(name)),
        "size": _size(gateway, name),
        "digest": hashlib.sha256(f"{name} {pipeline.source}".encode()).hexdigest(),
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
    """As Ollama writes how many parameters a model has: ``134.52M``, ``8B``, ``30.5B``."""
    for size, unit, places in ((10**9, "B", 1), (10**6, "M", 2)):
        if number >= size:
            return f"{number / size:.{0 if number % size == 0 else places}f}{unit}"
    return f"{number / 1000:.0f}K" if number >= 1000 else str(number)


def quantization_level(quantization: str) -> str:
    """As Ollama writes how weights are stored: ``BF16``, ``Q4_K_M``, ``MXFP4``; ``Q4`` for
    MLX's own four bits."""
    plain = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
    if found := re.match(r"(\d+)-bit (\w+)", quantization):
        bits, mode = found.groups()
        return f"Q{bits}" if mode == "affine" else mode.upper()
    return plain.get(quantization, quantization.upper())
