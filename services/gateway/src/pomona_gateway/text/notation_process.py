"""``python -m pomona_gateway.text.notation_process``: derives a model's notation.

Templates come from a model's maker, so they are rendered in a process with a deadline and a
memory limit. Reads a template and its special tokens as JSON; writes the notation as JSON.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import lru_cache

from pydantic import TypeAdapter

from pomona_gateway.module_command import module_command
from pomona_gateway.parsers.derivation.known_notations import known_notation
from pomona_gateway.parsers.derivation.template_notation import derive_notation
from pomona_gateway.parsers.notation import ReplyNotation
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.prompt_process import limit_memory

DEADLINE_S = 20.0
"""For all renderings of a template; they take less than a second."""
GRACE_S = 10.0
"""Additional time for the process to start."""
_NOTATION = TypeAdapter(ReplyNotation)


def load_notation(template: ChatTemplate) -> ReplyNotation:
    """Derives the notation of a model in a process of its own. Falls back to that of a known
    family when the process fails or is late."""
    special = tuple(sorted(template.special_tokens.items()))
    return _load(template.source, special)


@lru_cache(maxsize=16)
def _load(source: str, special: tuple[tuple[str, str], ...]) -> ReplyNotation:
    if not any(sign in source for sign in ("tool_calls", "reasoning", "think")):
        return known_notation(source)
    asked = json.dumps({"template": source, "special_tokens": dict(special)})
    command = module_command("text.notation_process")
    try:
        done = subprocess.run(
            command,
            input=asked.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=DEADLINE_S + GRACE_S,
            check=True,
        )
        return _NOTATION.validate_json(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        return known_notation(source)


def _main() -> None:
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    limit_memory()
    asked = json.load(sys.stdin.buffer)
    template = ChatTemplate(asked["template"], asked["special_tokens"])
    sys.stdout.buffer.write(_NOTATION.dump_json(derive_notation(template.source, template.render)))


if __name__ == "__main__":
    _main()
