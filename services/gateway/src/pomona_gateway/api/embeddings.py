"""``POST /v1/embeddings``: refused with the reason."""

from __future__ import annotations

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from pomona.errors import RequestError
from pomona_gateway.api.answering import gateway_of, receive
from pomona_gateway.api.body import Body
from pomona_gateway.api.openai_completions import Prompt
from pomona_gateway.api.parameters import Label


class EmbeddingRequest(Body):
    """A request for embeddings."""

    model: str
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: Label | None = None


async def embeddings(request: Request) -> Response:
    """Say why not."""
    asked = await receive(request, EmbeddingRequest)
    name, _ = gateway_of(request).catalogue.find(asked.model)
    message = f"{name} writes text; it gives no embeddings"
    raise RequestError(400, "embeddings_not_supported", message, "model")
