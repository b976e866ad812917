"""JSON answers."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic_core import to_json
from starlette.responses import Response


def encode(content: Any) -> bytes:
    """As JSON. A schema that a client sent, and is told again, may hold any integer."""
    try:
        return orjson.dumps(content)
    except TypeError:
        return to_json(content)


class JsonResponse(Response):
    """An answer encoded by orjson."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(content, status_code, headers)

    def render(self, content: Any) -> bytes:
        return encode(content)
