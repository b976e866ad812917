"""Parts of answers that OpenAI's endpoints share."""

from __future__ import annotations

import secrets
import time
from typing import Any

from pomona import __version__
from pomona_gateway.generation.completion import Completion, Usage

FINGERPRINT = f"pomona-{__version__}"


def answer_head(kind: str, prefix: str, completion: Completion) -> dict[str, Any]:
    """What every chunk of an answer begins with. ``kind`` is OpenAI's ``object``."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": completion.model,
        "system_fingerprint": FINGERPRINT,
    }


def usage_object(usage: Usage, thought: int | None = None) -> dict[str, Any]:
    """Token counts; ``thought``: those of the reply that were reasoning."""
    counts: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.reply,
        "total_tokens": usage.prompt + usage.reply,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }
    if thought is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": thought}
    return counts
