"""Makes one model's prompts: ``python -m pomona_gateway.text.prompt_process PATH``.

PATH is a model folder or a GGUF file. The process reads one JSON request a line from its
standard input:

- ``text``: a text to encode.
- ``template`` and ``variables``: a conversation to render, in the form that ``traits`` demands,
  and to encode. The first line of the answer has the rendered text, and which parts of the tools
  it simplifies.
- ``template`` alone: a template to probe. The answer is one line with its traits.

The answer to the first two ends with a line that has the number of ids, followed by the ids as
int32, or the length of a text that is longer than ``max_bytes``. Each line may instead state an
error. The process exits at the end of its input. The kernel kills it when a step exceeds the
deadline, even when the gateway is gone.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pomona.errors import PomonaError
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.rendered_chat import RenderedChat, render_conversation
from pomona_gateway.text.template_traits import TemplateTraits, probe_template
from pomona_gateway.text.tokenizer import Tokenizer, read_tokenizer

MAX_BYTES = 1 << 30
"""Memory that a prompt may take, in bytes. macOS does not enforce it."""
PIPE_BYTES = 1 << 16
"""Buffer size of either end of the pipes."""

ResultT = TypeVar("ResultT")


@lru_cache(maxsize=8)
def _template(source: str, special_tokens: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(special_tokens))


def _template_of(request: dict[str, Any]) -> ChatTemplate:
    return _template(request["template"], tuple(sorted(request["special_tokens"].items())))


def _render(request: dict[str, Any]) -> RenderedChat:
    return render_conversation(
        _template_of(request),
        TemplateTraits(**request["traits"]),
        request["variables"],
        request["continue_final"],
        call=request["call"],
    )


def _probe(request: dict[str, Any]) -> dict[str, Any]:
    return asdict(probe_template(_template_of(request).render))


def _with_deadline(deadline_s: float, work: Callable[[], ResultT]) -> ResultT:
    signal.setitimer(signal.ITIMER_REAL, deadline_s)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _write(answer: dict[str, Any], ids: bytes = b"") -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + ids)
    sys.stdout.buffer.flush()


def answer_request(line: bytes, tokenizer: Tokenizer) -> None:
    """Writes the answer to a request, or an error, to standard output."""
    request = json.loads(line)
    deadline_s = request["deadline_s"]
    chat = "template" in request
    try:
        if chat and "variables" not in request:
            _write({"traits": _with_deadline(deadline_s, lambda: _probe(request))})
            return
        if chat:
            rendered = _with_deadline(deadline_s, lambda: _render(request))
            text = rendered.text
            _write(asdict(rendered))
        else:
            text = request["text"]
        max_bytes = request.get("max_bytes")
        size = len(text.encode())
        if max_bytes is not None and size > max_bytes:
            _write({"too_long": size})
            return
        is_chat = chat or request.get("chat", False)
        ids = _with_deadline(deadline_s, lambda: tokenizer.encode(text, is_chat))
    except (PomonaError, MemoryError) as error:
        _write({"error": str(error) or "it takes too much memory"})
    else:
        _write({"ids": len(ids)}, array("i", ids).tobytes())


def limit_memory(max_bytes: int = MAX_BYTES) -> None:
    """Limits the memory that the process may add, in bytes."""
    with suppress(ValueError, OSError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + max_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model_tokenizer = read_tokenizer(Path(sys.argv[1]))
    limit_memory()
    with open(0, "rb", PIPE_BYTES) as lines:
        for request_line in lines:
            answer_request(request_line, model_tokenizer)
