"""Templates are programs of whoever made a model: they run in a process with a deadline."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pomona.errors import RequestError
from pomona_gateway.templates import PIPE_BYTES
from pomona_gateway.templates.chat_template import ChatTemplate

DEADLINE_S = 5.0
"""For one rendering. Templates of real models take milliseconds."""
GRACE_S = 10.0
"""Beyond it: for the process to start, and for one that the kernel does not end."""


class Renderer:
    """Renders one model's chat templates, one prompt at a time, in a process of its own.

    A template may loop for ever, or take all memory: Jinja's sandbox keeps it from the system,
    not from that. Its process is then ended by the kernel, and the next prompt gets another.
    """

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._order = asyncio.Lock()
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    async def render(self, template: ChatTemplate, variables: Mapping[str, Any]) -> str:
        """The prompt. Raises RequestError when the template refuses, or is not done in time."""
        # One thread a model waits at most: the others are for other models.
        async with self._order:
            return await asyncio.to_thread(self._render, template, variables)

    def start(self) -> None:
        """Have the process ready before the first prompt."""
        with self._turn:
            self._running()

    def close(self) -> None:
        """End the process, whatever it does."""
        process = self._process
        if process is not None:
            process.kill()
            with self._turn:
                self._end(process)

    def _render(self, template: ChatTemplate, variables: Mapping[str, Any]) -> str:
        asked = {
            "source": template.source,
            "special_tokens": template.special_tokens,
            "variables": variables,
            "deadline_s": self._deadline_s,
        }
        line = json.dumps(asked).encode() + b"\n"
        with self._turn:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            too_late = threading.Timer(self._deadline_s + GRACE_S, process.kill)
            too_late.start()
            try:
                process.stdin.write(line)
                process.stdin.flush()
                said = process.stdout.readline()
            except OSError:
                said = b""
            finally:
                too_late.cancel()
            if not said:
                self._end(process)
        told = json.loads(said) if said else {"refused": self._unfinished()}
        if "text" in told:
            return str(told["text"])
        raise RequestError(400, "invalid_messages", told["refused"], "messages")

    def _unfinished(self) -> str:
        return (
            f"the model's chat template was not done with these messages after "
            f"{self._deadline_s:g} s, or took too much memory"
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "pomona_gateway.templates"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=PIPE_BYTES,
            )
        return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        with suppress(BrokenPipeError), process:
            process.kill()
