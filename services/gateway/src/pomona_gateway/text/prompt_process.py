"""``python -m pomona_gateway.text.prompt_process PATH``: makes the prompts of one model.

PATH is the model's folder or GGUF file. Reads a request a line, as JSON: a text, or a template
and its variables, until its input ends. Answers a template with a line that has the text, then
either with a line that has the number of ids and with those, int32. An answer may be a line
that says why there is none. The kernel ends the process when one of these takes too long, even
when the gateway is gone meanwhile.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pomona.errors import PomonaError
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.tokenizer import Tokenizer, read_tokenizer

MAX_BYTES = 1 << 30
"""Of memory that a prompt may take, where the system keeps to it (macOS does not)."""
PIPE_BYTES = 1 << 16
"""Read at once from a pipe, by either side."""

ResultT = TypeVar("ResultT")


@lru_cache(maxsize=8)
def _compiled(source: str, special: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(special))


def _render(asked: dict[str, Any]) -> str:
    special = tuple(sorted(asked["special_tokens"].items()))
    return _compiled(asked["template"], special).render(**asked["variables"])


def _within(deadline_s: float, work: Callable[[], ResultT]) -> ResultT:
    signal.setitimer(signal.ITIMER_REAL, deadline_s)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _tell(told: dict[str, Any], ids: bytes = b"") -> None:
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\n" + ids)
    sys.stdout.buffer.flush()


def answer(line: bytes, tokenizer: Tokenizer) -> None:
    """Say the text and its ids, or why there are none."""
    asked = json.loads(line)
    deadline_s = asked["deadline_s"]
    chat = "template" in asked
    try:
        if chat:
            text = _within(deadline_s, lambda: _render(asked))
            _tell({"text": text})
        else:
            text = asked["text"]
        ids = _within(deadline_s, lambda: tokenizer.encode(text, chat))
    except (PomonaError, MemoryError) as error:
        _tell({"refused": str(error) or "it takes too much memory"})
    else:
        _tell({"ids": len(ids)}, array("i", ids).tobytes())


def limit_memory() -> None:
    """Limits what the process may take beyond what it has."""
    with suppress(ValueError, OSError):
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = taken + MAX_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = read_tokenizer(Path(sys.argv[1]))
    limit_memory()
    with open(0, "rb", PIPE_BYTES) as lines:
        for asked_line in lines:
            answer(asked_line, own)
