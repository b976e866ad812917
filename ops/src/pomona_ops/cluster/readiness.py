"""Checks whether a gateway is ready, by its ``/readyz``."""

from __future__ import annotations

import httpx
import orjson


async def why_not_ready(client: httpx.AsyncClient, url: str) -> str:
    """Returns the reason that the gateway at ``url`` gives; empty when it is ready."""
    try:
        answer = await client.get(f"{url}/readyz")
    except httpx.TimeoutException:
        return "no answer in time"
    except httpx.HTTPError:
        return "no answer"
    if answer.status_code == 200:
        return ""
    try:
        reason = orjson.loads(answer.content)["reason"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        reason = ""
    return str(reason) or f"status {answer.status_code}"
