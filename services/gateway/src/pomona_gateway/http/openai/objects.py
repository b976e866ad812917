"""Parts of responses that OpenAI's chat and text completions share."""

from __future__ import annotations

from typing import Any

from pomona import __version__
from pomona.errors import RequestError
from pomona_gateway.generation.completion import Completion, Usage
from pomona_gateway.http import sse
from pomona_gateway.http.errors import openai_error
from pomona_gateway.runs.run_context import new_hex, request_time

FINGERPRINT = f"pomona-{__version__}"


def response_head(object_type: str, id_prefix: str, completion: Completion) -> dict[str, Any]:
    """Returns the fields that every chunk of a response repeats.

    Args:
        object_type: value of OpenAI's ``object``.
    """
    return {
        "id": f"{id_prefix}-{new_hex(12)}",
        "object": object_type,
        "created": int(request_time()),
        "model": completion.model,
        "system_fingerprint": FINGERPRINT,
    }


def usage_object(usage: Usage, reasoning_tokens: int | None = None) -> dict[str, Any]:
    """Returns the token counts; ``reasoning_tokens`` only if given."""
    counts: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.reply,
        "total_tokens": usage.prompt + usage.reply,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }
    details: dict[str, Any] = {
        "accepted_prediction_tokens": usage.accepted,
        "rejected_prediction_tokens": usage.rejected,
    }
    if reasoning_tokens is not None:
        details["reasoning_tokens"] = reasoning_tokens
    counts["completion_tokens_details"] = details
    return counts


def error_chunk(error: RequestError) -> bytes:
    """Encodes an error and the end of a stream."""
    return sse.data(openai_error(error)) + sse.DONE
