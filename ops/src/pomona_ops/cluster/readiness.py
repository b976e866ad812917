"""Whether a gateway can answer requests, by its own ``/readyz``."""

from __future__ import annotations

import httpx
import orjson


async def why_not_ready(client: httpx.AsyncClient, url: str) -> str:
    """What the gateway at ``url`` waits for, in its words; empty when it is ready."""
    try:
        answer = await client.get(f"{url}/readyz")
    except httpx.TimeoutException:
        return "it did not answer in time"
    except httpx.HTTPError:
        return "it does not answer"
    if answer.status_code == 200:
        return ""
    try:
        reason = orjson.loads(answer.content)["reason"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        reason = ""
    return str(reason) or f"it answers with {answer.status_code}"
