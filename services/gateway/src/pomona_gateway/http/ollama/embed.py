"""Ollama's ``/api/embed`` and ``/api/embeddings``
(https://github.com/ollama/ollama/blob/main/docs/api.md)."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pomona_gateway.generation.choices import GenerationStream
from pomona_gateway.http.common.run_request import gateway_of, read_request, run_whole
from pomona_gateway.http.ollama.chat_request import EmbedRequest, OldEmbedRequest
from pomona_gateway.http.openai.embeddings import prepare_embeddings, read_vectors
from pomona_gateway.http.respond import JsonResponse


async def embed(request: Request) -> Response:
    """Computes the embeddings of one or several texts."""
    started = time.monotonic()
    body = await read_request(request, EmbedRequest)
    gateway = gateway_of(request)
    if not body.input:
        name, _ = gateway.models.find(body.model)
        return JsonResponse({"model": name, "embeddings": []})
    completion = await prepare_embeddings(gateway, body.model, body.input, body.dimensions)

    async def write(stream: GenerationStream, keep_alive_s: float) -> dict[str, Any]:
        vectors = await read_vectors(completion, stream, keep_alive_s)
        return {
            "model": completion.model,
            "embeddings": [vector.tolist() for vector in vectors],
            "total_duration": int((time.monotonic() - started) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": stream.usage.prompt,
        }

    return await run_whole(request, completion, write)


async def old_embeddings(request: Request) -> Response:
    """Computes the embedding of one text."""
    body = await read_request(request, OldEmbedRequest)
    gateway = gateway_of(request)
    if not body.prompt:
        gateway.models.find(body.model)
        return JsonResponse({"embedding": []})
    completion = await prepare_embeddings(gateway, body.model, body.prompt, None, "prompt")

    async def write(stream: GenerationStream, keep_alive_s: float) -> dict[str, Any]:
        [vector] = await read_vectors(completion, stream, keep_alive_s)
        return {"embedding": vector.tolist()}

    return await run_whole(request, completion, write)
