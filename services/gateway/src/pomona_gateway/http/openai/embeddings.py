"""``POST /v1/embeddings`` (https://platform.openai.com/docs/api-reference/embeddings).

The embedding of a text is the hidden state of its last token before the vocabulary head:
``lasttoken`` pooling of sentence-transformers.
"""

from __future__ import annotations

import base64
import math
from array import array
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona.messages.sampling import Sampling
from pomona.models import ModelFacts
from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.choices import GenerationStream, PromptProgress
from pomona_gateway.generation.completion import Completion
from pomona_gateway.http.common.run_request import gateway_of, read_request, run_whole
from pomona_gateway.http.openai.completions_request import Ids, Prompt, Text, read_prompts
from pomona_gateway.http.request_body import Body
from pomona_gateway.text.limits import PromptTooLongError

FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}
"""Architectures whose last hidden state is known to be what their embeddings are made of."""

MAX_INPUTS = 2048
"""OpenAI's limit."""
MAX_CONCURRENT_INPUTS = 32

Texts = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
Rows = Annotated[list[Ids], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]


class EmbeddingRequest(Body):
    """An embeddings request."""

    hints = frozenset({"user", "input_type", "truncate_prompt_tokens"})

    model: str
    input: Text | Texts | Ids | Rows
    """One or several texts, as text or as token ids."""
    encoding_format: Literal["float", "base64"] | None = None
    """Numbers, or the base64 of little-endian float32. Default float."""
    dimensions: int | None = Field(default=None, ge=1)
    """Only the full size of the model's embeddings."""


async def embeddings(request: Request) -> Response:
    """Computes the embeddings of texts."""
    body = await read_request(request, EmbeddingRequest)
    completion = await prepare_embeddings(
        gateway_of(request), body.model, body.input, body.dimensions
    )
    return await run_whole(request, completion, partial(_list_object, body, completion))


async def prepare_embeddings(
    gateway: Gateway, model: str, texts: Prompt, dimensions: int | None, parameter: str = "input"
) -> Completion:
    """Returns the completion that computes the embeddings of texts.

    Args:
        parameter: the parameter that holds the texts, for error messages.

    Raises RequestError when the model gives no embeddings or a text is too long.
    """
    name, language = gateway.models.find(model)
    check_support(name, language.facts, dimensions)
    _, prompts = await read_prompts(texts, language, parameter)
    longest = max(len(prompt) for prompt in prompts)
    if longest >= language.context_length:
        raise PromptTooLongError(longest, language.context_length, parameter)
    return Completion(
        model=name,
        language=language,
        prompts=prompts,
        sampling=Sampling(max_tokens=1, temperature=0.0, embedding=True),
        max_concurrent=MAX_CONCURRENT_INPUTS,
        prompt_only=True,
    )


def check_support(name: str, facts: ModelFacts, dimensions: int | None) -> None:
    """Raises RequestError when the model does not give the requested embeddings."""
    reason = ""
    if not facts.pooling:
        reason = f"{name} writes text; it gives no embeddings"
    elif facts.pooling != "lasttoken":
        reason = (
            f"{name} pools its embeddings by {facts.pooling!r}; only 'lasttoken' pooling is "
            "supported"
        )
    elif facts.architecture not in FAMILIES or "config.json" in facts.unused_code:
        reason = (
            f"{name} has an architecture or code of its own for which embeddings are not "
            f"supported; supported are {', '.join(sorted(FAMILIES))}"
        )
    if reason:
        raise RequestError(400, "embeddings_not_supported", reason, "model")
    if dimensions not in (None, facts.hidden_size):
        message = (
            f"invalid 'dimensions': embeddings of {name} have {facts.hidden_size} dimensions; "
            "give this number or leave it out"
        )
        raise RequestError(400, "invalid_value", message, "dimensions")


async def _list_object(
    body: EmbeddingRequest, completion: Completion, stream: GenerationStream, keep_alive_s: float
) -> dict[str, Any]:
    """Returns a list object of all embeddings, in the order of the texts."""
    as_base64 = body.encoding_format == "base64"
    vectors = await read_vectors(completion, stream, keep_alive_s)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(x.tobytes()).decode() if as_base64 else x.tolist(),
        }
        for index, x in enumerate(vectors)
    ]
    count = stream.usage.prompt
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": completion.model, "usage": usage}


async def read_vectors(
    completion: Completion, stream: GenerationStream, keep_alive_s: float
) -> list[array[float]]:
    """Returns the embeddings in the order of the texts, normalised if the model's are."""
    vectors: dict[int, array[float]] = {}
    async with aclosing(stream.events(keep_alive_s)) as events:
        async for event in events:
            if not isinstance(event, PromptProgress) and event[1].embedding is not None:
                vectors[event[0]] = event[1].embedding.vector
    ordered = [vectors[index] for index in range(completion.choice_count)]
    if not completion.language.facts.normalized:
        return ordered
    return [_normalized(vector) for vector in ordered]


def _normalized(vector: array[float]) -> array[float]:
    norm = math.sqrt(math.fsum(x * x for x in vector)) or 1.0
    return array("f", [x / norm for x in vector])
