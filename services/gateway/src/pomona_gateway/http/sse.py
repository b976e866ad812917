"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from typing import Any

import orjson

from pomona.errors import RequestError
from pomona_gateway.http.errors import error_body

MEDIA_TYPE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"


def data(content: Any) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def comment(text: str) -> bytes:
    """A line that clients ignore; it shows that the connection lives."""
    return f": {text}\n\n".encode()


def openai_failure(error: RequestError) -> bytes:
    """An error in a stream, and the stream's end."""
    return data(error_body(error)) + DONE
