"""``POST /v1/embeddings`` (https://platform.openai.com/docs/api-reference/embeddings).

A text's embedding is what the model makes of its last token before the vocabulary head, as
sentence-transformers' ``lasttoken`` pooling has it.
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
from pomona_gateway.generation.choices import GenerationStream, PromptProgress
from pomona_gateway.generation.completion import Completion
from pomona_gateway.http.common.run_request import answer_whole, gateway_of, receive
from pomona_gateway.http.common.sampling_parameters import Label
from pomona_gateway.http.openai.completions import Ids, Text, read_prompts
from pomona_gateway.http.request_body import Body

FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}
"""Whose hidden states are known to be those that their embeddings are made of."""


MAX_INPUTS = 2048
"""As OpenAI has it."""
AT_ONCE = 32

Texts = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
Rows = Annotated[list[Ids], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]


class EmbeddingRequest(Body):
    """A request for embeddings."""

    model: str
    input: Text | Texts | Ids | Rows
    """One text or several, each perhaps as token ids."""
    encoding_format: Literal["float", "base64"] | None = None
    """Numbers, or the bytes of float32, little-endian. Default float."""
    dimensions: int | None = Field(default=None, ge=1)
    """Only as many as the model's embeddings have."""
    user: Label | None = None


async def embeddings(request: Request) -> Response:
    """Answer one request for embeddings."""
    asked = await receive(request, EmbeddingRequest)
    name, language = gateway_of(request).models.find(asked.model)
    refuse(name, language.facts, asked)
    _, prompts = await read_prompts(asked.input, language, "input")
    longest = max(len(prompt) for prompt in prompts)
    if longest >= language.context_length:
        raise RequestError(
            400,
            "context_length_exceeded",
            f"'input' has {longest} tokens, and {name} reads {language.context_length - 1}",
            "input",
        )
    completion = Completion(
        model=name,
        language=language,
        prompts=prompts,
        sampling=Sampling(max_tokens=1, temperature=0.0, embedding=True),
        max_concurrent=AT_ONCE,
        prompt_only=True,
    )
    return await answer_whole(request, completion, partial(_written, asked, completion))


def refuse(name: str, facts: ModelFacts, asked: EmbeddingRequest) -> None:
    """Raises RequestError when the model gives no such embeddings."""
    reason = ""
    if not facts.pooling:
        reason = f"{name} writes text; it gives no embeddings"
    elif facts.pooling != "lasttoken":
        reason = (
            f"the embeddings of {name} are made by {facts.pooling!r}, and Pomona makes only "
            "those by 'lasttoken'"
        )
    elif facts.architecture not in FAMILIES or "config.json" in facts.unused_code:
        reason = (
            f"{name} embeds with code of its own or with an architecture of which Pomona does "
            f"not know that; it knows that of {', '.join(sorted(FAMILIES))}"
        )
    if reason:
        raise RequestError(400, "embeddings_not_supported", reason, "model")
    if asked.dimensions not in (None, facts.hidden_size):
        message = f"'dimensions': embeddings of {name} have {facts.hidden_size}, no fewer"
        raise RequestError(400, "invalid_value", message, "dimensions")


async def _written(
    asked: EmbeddingRequest, completion: Completion, replies: GenerationStream, pause_s: float
) -> dict[str, Any]:
    """A list object of all embeddings, in the order of the texts."""
    vectors: dict[int, array[float]] = {}
    async with aclosing(replies.events(pause_s)) as events:
        async for event in events:
            if not isinstance(event, PromptProgress) and event[1].embedding is not None:
                vectors[event[0]] = event[1].embedding.vector
    normalized = completion.language.facts.normalized
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _numbers(vectors[index], normalized, asked.encoding_format == "base64"),
        }
        for index in range(completion.choice_count)
    ]
    count = replies.usage.prompt
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": completion.model, "usage": usage}


def _numbers(vector: array[float], normalized: bool, packed: bool) -> list[float] | str:
    if normalized:
        length = math.sqrt(math.fsum(x * x for x in vector)) or 1.0
        vector = array("f", [x / length for x in vector])
    return base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist()
