"""Makes a model's prompts in a process with a deadline, since its files are not trusted."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from array import array
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pomona.errors import RequestError
from pomona_gateway.module_command import module_command
from pomona_gateway.tenant import current_tenant
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.fair_turns import FairTurns
from pomona_gateway.text.limits import TextLimit
from pomona_gateway.text.prompt_process import PIPE_BYTES
from pomona_gateway.text.rendered_chat import RenderedChat
from pomona_gateway.text.template_traits import PERMISSIVE, TemplateTraits
from pomona_gateway.text.tool_instructions import TAUGHT_CALL
from pomona_gateway.text.tool_schemas import SimplifiedPart

DEADLINE_S = 10.0
"""Deadline for rendering a prompt, and again for encoding it. Rendering takes milliseconds; a
million tokens take three seconds to encode."""
MAX_SHORT_BYTES = 128 << 10
"""Size of a request up to which its prompt is a short one; it takes milliseconds."""
MAX_WAITING = 256
"""Maximum number of prompts of one tenant that wait for a process."""
RETRY_AFTER_S = 2
GRACE_S = 10.0
"""Additional time for the process to start, and before the gateway kills it itself."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of making a prompt, as its errors name it."""

    worker: str
    work: str
    code: str
    parameter: str | None

    def error(self, reason: str) -> RequestError:
        return RequestError(400, self.code, reason, self.parameter)

    def timeout(self, deadline_s: float) -> RequestError:
        return self.error(
            f"the model's {self.worker} had not finished {self.work} after {deadline_s:g} s, "
            "or took too much memory"
        )


def _template_request(template: ChatTemplate) -> dict[str, Any]:
    return {"template": template.source, "special_tokens": template.special_tokens}


_RENDER = _Step("chat template", "these messages", "invalid_messages", "messages")
_ENCODE = _Step("tokenizer", "this text", "invalid_text", None)


class Prompter:
    """Makes one model's prompts, in processes of their own.

    A template, or a regular expression of a tokenizer, may loop forever or take all memory. The
    kernel then kills the process, and the next prompt starts another one. Long prompts have
    another process than short ones, and tenants take turns at both, so that one tenant's prompts
    do not delay another's.

    Args:
        path: model folder or GGUF file.
    """

    def __init__(self, path: Path, deadline_s: float = DEADLINE_S) -> None:
        self._short = _PromptProcess(path, deadline_s)
        self._long = _PromptProcess(path, deadline_s)

    async def render(
        self,
        template: ChatTemplate,
        variables: Mapping[str, Any],
        traits: TemplateTraits = PERMISSIVE,
        continue_final: bool = False,
        limit: TextLimit | None = None,
        call: str = TAUGHT_CALL,
        simplified: list[SimplifiedPart] | None = None,
    ) -> tuple[str, array[int]]:
        """Renders a conversation as :func:`render_conversation` does.

        Args:
            limit: longest text to tokenise.
            simplified: takes the parts of the tools that the prompt says otherwise.

        Returns:
            The prompt as text and as token ids.

        Raises:
            RequestError: the template or the tokenizer rejects it or exceeds the deadline, or the
                text is too long.
        """
        request = {
            **_template_request(template),
            "variables": variables,
            "traits": asdict(traits),
            "continue_final": continue_final,
            "call": call,
        }
        rendered, ids = await self._request(request, _RENDER, limit)
        if simplified is not None:
            simplified += rendered.simplified
        return rendered.text, ids

    async def encode(
        self, text: str, chat: bool = False, limit: TextLimit | None = None
    ) -> array[int]:
        """Encodes a text.

        Args:
            chat: the text is a rendered conversation, with its special tokens.
            limit: longest text to tokenise.

        Raises:
            RequestError: the tokenizer rejects it or exceeds the deadline, or it is too long.
        """
        if limit is not None:
            limit.check(len(text))
        _, ids = await self._request({"text": text, "chat": chat}, _ENCODE, limit)
        return ids

    def start(self) -> None:
        """Starts the process for short prompts before the first one."""
        self._short.start()

    def probe(self, template: ChatTemplate) -> TemplateTraits:
        """Finds out which conversations a template can express. Blocks.

        Raises:
            RequestError: the template exceeds the deadline.
        """
        return self._short.probe(template)

    def close(self) -> None:
        """Kills the processes for good. Another thread that waits for one gets an error."""
        self._short.close()
        self._long.close()

    async def _request(
        self, request: dict[str, Any], first: _Step, limit: TextLimit | None
    ) -> tuple[RenderedChat, array[int]]:
        max_bytes = None if limit is None else limit.max_bytes
        line = await asyncio.to_thread(_encoded, {**request, "max_bytes": max_bytes})
        process = self._short if len(line) <= MAX_SHORT_BYTES else self._long
        try:
            return await process.request(line, first, current_tenant())
        except _TextTooLongError as error:
            assert limit is not None
            limit.check(error.size)
            raise


class _TextTooLongError(Exception):
    """A rendered text is longer than its request allows. ``size``: its length in bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def _encoded(request: dict[str, Any]) -> bytes:
    """Returns a request without the brace that ends it, so that a deadline can be added."""
    return json.dumps(request).encode()[:-1]


class _PromptProcess:
    """Makes one model's prompts, one at a time, in a process of its own."""

    def __init__(self, path: Path, deadline_s: float) -> None:
        self._path = path
        self._deadline_s = deadline_s
        self._turns = FairTurns()
        # Prompts that wait must not take the threads that other models and requests need.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def start(self) -> None:
        """Starts the process."""
        with self._lock:
            self._started()

    def probe(self, template: ChatTemplate) -> TemplateTraits:
        """Finds out which conversations a template can express. Blocks."""
        request = _encoded(_template_request(template))
        with self._lock, self._exchange(request) as answers:
            return TemplateTraits(**self._read_line(answers, _RENDER)["traits"])

    def close(self) -> None:
        """Kills the process for good."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            if self._process is not None:
                self._end(self._process)
        self._thread.shutdown(wait=False)

    async def request(
        self, line: bytes, first: _Step, tenant: str
    ) -> tuple[RenderedChat, array[int]]:
        """Makes a prompt in the tenant's turn.

        Raises:
            RequestError: the prompt is refused, or too many of the tenant's prompts wait.
        """
        if self._turns.waiting(tenant) >= MAX_WAITING:
            raise RequestError(
                429,
                "too_many_prompts",
                f"{MAX_WAITING} prompts of this key wait to be tokenised; send fewer at once",
                retry_after_s=RETRY_AFTER_S,
            )
        async with self._turns.turn(tenant):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._prompt, line, first)

    def _prompt(self, request: bytes, first: _Step) -> tuple[RenderedChat, array[int]]:
        with self._lock, self._exchange(request) as answers:
            return self._read(answers, first)

    @contextmanager
    def _exchange(self, request: bytes) -> Generator[IO[bytes]]:
        """Sends a request. Yields its answer, and kills the process when it does not come."""
        line = request + b', "deadline_s": %r}\n' % self._deadline_s
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        killer = threading.Timer(2 * self._deadline_s + GRACE_S, process.kill)
        killer.start()
        try:
            with suppress(OSError):
                process.stdin.write(line)
                process.stdin.flush()
            yield process.stdout
        except EOFError as error:
            code = self._end(process)
            if code > 0:
                raise RuntimeError(
                    f"the prompt process of {self._path} exited with code {code}"
                ) from error
            raise error.args[0].timeout(self._deadline_s) from error
        finally:
            killer.cancel()

    def _read(self, answers: IO[bytes], first: _Step) -> tuple[RenderedChat, array[int]]:
        """Reads text and ids. Raises EOFError with the step during which the process ended."""
        rendered = RenderedChat("")
        if first is _RENDER:
            answer = self._read_line(answers, _RENDER)
            parts = tuple((index, path) for index, path in answer["simplified"])
            rendered = RenderedChat(answer["text"], parts)
        answer = self._read_line(answers, _ENCODE)
        if "too_long" in answer:
            raise _TextTooLongError(answer["too_long"])
        count = answer["ids"]
        ids = array("i")
        try:
            ids.fromfile(answers, count)
        except EOFError as error:
            raise EOFError(_ENCODE) from error
        return rendered, ids

    def _read_line(self, answers: IO[bytes], step: _Step) -> dict[str, Any]:
        line = answers.readline()
        if not line.endswith(b"\n"):
            raise EOFError(step)
        answer = json.loads(line)
        if "error" in answer:
            raise step.error(answer["error"])
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise RuntimeError(f"the prompter of {self._path} is closed")
        if self._process is None:
            self._process = subprocess.Popen(
                module_command("text.prompt_process", str(self._path)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=PIPE_BYTES,
                # The library's threads would count towards the memory limit.
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            )
        return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        self._process = None
        with suppress(BrokenPipeError), process:
            process.kill()
        return process.returncode
