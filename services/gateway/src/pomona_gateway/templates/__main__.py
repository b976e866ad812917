"""``python -m pomona_gateway.templates``: the process in which a template runs.

Reads a request a line, as JSON, and writes an answer a line, until its input ends. The kernel
ends it when a template takes too long, even when the gateway is gone meanwhile.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from contextlib import suppress
from functools import lru_cache

from pomona.errors import PomonaError
from pomona_gateway.templates import PIPE_BYTES
from pomona_gateway.templates.chat_template import ChatTemplate

MAX_BYTES = 1 << 30
"""Of memory that a template may take, where the system keeps to it (macOS does not)."""


@lru_cache(maxsize=8)
def _compiled(source: str, special: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(special))


def answer(line: bytes) -> bytes:
    """The text, or why there is none."""
    asked = json.loads(line)
    special = tuple(sorted(asked["special_tokens"].items()))
    signal.setitimer(signal.ITIMER_REAL, asked["deadline_s"])
    try:
        told = {"text": _compiled(asked["source"], special).render(**asked["variables"])}
    except PomonaError as error:
        told = {"refused": str(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return json.dumps(told).encode() + b"\n"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    with open(0, "rb", PIPE_BYTES) as lines:
        for line in lines:
            sys.stdout.buffer.write(answer(line))
            sys.stdout.buffer.flush()
