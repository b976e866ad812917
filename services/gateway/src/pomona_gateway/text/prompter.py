"""Templates and tokenizers are of whoever made a model: they run in a process with a deadline."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pomona.errors import RequestError
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.prompt_process import PIPE_BYTES

DEADLINE_S = 10.0
"""For the text of a prompt, and for its ids. The former takes milliseconds; a million ids of
the latter take three seconds."""
GRACE_S = 10.0
"""Beyond it: for the process to start, and for one that the kernel does not end."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What to say when a part of the work fails."""

    whose: str
    what: str
    code: str
    parameter: str | None

    def error(self, reason: str) -> RequestError:
        return RequestError(400, self.code, reason, self.parameter)

    def unfinished(self, deadline_s: float) -> RequestError:
        return self.error(
            f"the model's {self.whose} was not done with {self.what} after {deadline_s:g} s, "
            "or took too much memory"
        )


_TEMPLATE = _Refusal("chat template", "these messages", "invalid_messages", "messages")
_TOKENIZER = _Refusal("tokenizer", "this text", "invalid_text", None)


class Prompter:
    """Makes one model's prompts, one at a time, in a process of its own.

    A template may loop for ever or take all memory, and so may the regular expressions of a
    tokenizer. The kernel then ends the process, and the next prompt gets another.

    Args:
        path: the model's folder or GGUF file.
    """

    def __init__(self, path: Path, deadline_s: float = DEADLINE_S) -> None:
        self._path = path
        self._deadline_s = deadline_s
        self._order = asyncio.Lock()
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    async def render(
        self, template: ChatTemplate, variables: Mapping[str, Any]
    ) -> tuple[str, array[int]]:
        """A conversation as text and as ids. Raises RequestError when the template or the
        tokenizer refuses, or is not done in time."""
        asked = {
            "template": template.source,
            "special_tokens": template.special_tokens,
            "variables": variables,
        }
        return await self._ask(asked, _TEMPLATE)

    async def encode(self, text: str) -> array[int]:
        """A text that is no conversation as ids. Raises RequestError likewise."""
        _, ids = await self._ask({"text": text}, _TOKENIZER)
        return ids

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

    async def _ask(self, asked: dict[str, Any], first: _Refusal) -> tuple[str, array[int]]:
        # One thread a model waits at most: the others are for other models.
        async with self._order:
            return await asyncio.to_thread(self._exchange, asked, first)

    def _exchange(self, asked: dict[str, Any], first: _Refusal) -> tuple[str, array[int]]:
        line = json.dumps({**asked, "deadline_s": self._deadline_s}).encode() + b"\n"
        with self._turn:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            too_late = threading.Timer(2 * self._deadline_s + GRACE_S, process.kill)
            too_late.start()
            try:
                with suppress(OSError):
                    process.stdin.write(line)
                    process.stdin.flush()
                return self._read(process.stdout, first)
            except EOFError as error:
                code = self._end(process)
                if code > 0:
                    raise RuntimeError(
                        f"the process that makes prompts of {self._path} ended with {code}"
                    ) from error
                raise error.args[0].unfinished(self._deadline_s) from error
            finally:
                too_late.cancel()

    def _read(self, answers: IO[bytes], first: _Refusal) -> tuple[str, array[int]]:
        """What the process says. Raises EOFError with the part it did not do."""
        text = ""
        if first is _TEMPLATE:
            text = self._told(answers, _TEMPLATE)["text"]
        count = self._told(answers, _TOKENIZER)["ids"]
        ids = array("i")
        try:
            ids.fromfile(answers, count)
        except EOFError as error:
            raise EOFError(_TOKENIZER) from error
        return text, ids

    def _told(self, answers: IO[bytes], part: _Refusal) -> dict[str, Any]:
        line = answers.readline()
        if not line.endswith(b"\n"):
            raise EOFError(part)
        told = json.loads(line)
        if "refused" in told:
            raise part.error(told["refused"])
        return told

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "pomona_gateway.text.prompt_process", str(self._path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=PIPE_BYTES,
                # Threads of the library would take memory beside the limit.
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            )
        return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        self._process = None
        with suppress(BrokenPipeError), process:
            process.kill()
        return process.returncode
