"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from typing import Any

from pomona_gateway.http.respond import encode_json

MEDIA_TYPE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
"""The event that ends a stream of OpenAI's chat and text completions."""


WORKING = b": working\n\n"
"""A comment for connections on which nothing else is sent."""


def data(content: Any) -> bytes:
    """Encodes an event without a name."""
    return b"data: " + encode_json(content) + b"\n\n"


def event(name: str, content: Any) -> bytes:
    """Encodes a named event."""
    return b"event: " + name.encode() + b"\n" + data(content)


def comment(text: str) -> bytes:
    """Encodes a comment line, which keeps the connection open and which clients ignore."""
    return f": {text}\n\n".encode()
