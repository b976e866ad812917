"""Compiles a grammar before a request is submitted with it, in a process that can be ended."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from pomona.errors import RequestError
from pomona_gateway.grammar.compile_process import CODE, SHAPES
from pomona_gateway.grammar.reply import ReplyGrammar
from pomona_gateway.grammar.shapes import ChoiceShape, GrammarShape, JsonShape, RegexShape, Shape
from pomona_gateway.module_command import module_command
from pomona_gateway.settings import GatewaySettings
from pomona_gateway.text import LanguageModel

MAX_COMPILING = 4
"""Maximum number of grammars that compile at the same time."""
MAX_COMPILING_OF_KEY = 1
"""The same for the requests of one key."""
SLOW_AFTER_S = 0.3
"""Time after which a grammar compiles only in time that nothing else wants. Most take less."""
SLOW_NICENESS = 19
MAX_PROCESSES = 4
"""Maximum number of models with a process; the least recently used is ended."""
MAX_PASSED = 256
"""Number of grammars that are known to compile, for each model."""
START_S = 30.0
"""Additional time for a model's process to read the tokenizer."""
RETRY_AFTER_S = 2


class GrammarChecker:
    """Compiles grammars with the vocabulary and the limits that the tail uses.

    The tail can therefore start every grammar that passes. One key's grammars hold up no other
    key's: they wait for each other.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._processes: OrderedDict[tuple[str, tuple[int, ...]], _CompileProcess] = OrderedDict()
        self._all = asyncio.Semaphore(MAX_COMPILING)
        self._keys: dict[str, _KeyTurn] = {}
        self._closed = False

    def close(self) -> None:
        """Ends every process and every grammar that compiles."""
        self._closed = True
        for process in self._processes.values():
            process.close()
        self._processes.clear()

    def check_size(self, shape: Shape) -> None:
        """Raises RequestError for a shape that is larger than the settings allow, before a grammar
        is written from it."""
        limit = self._settings.max_schema_bytes
        match shape:
            case JsonShape(schema=schema):
                large = _exceeds(schema, limit)
            case RegexShape(pattern=pattern):
                large = len(pattern) > limit
            case ChoiceShape(texts=texts):
                large = sum(len(text) for text in texts) > limit
            case GrammarShape(source=source):
                large = len(source) > limit
        if large:
            message = (
                f"invalid {shape.where!r}: it has more than {limit} characters "
                "(POMONA_GATEWAY_MAX_SCHEMA_BYTES)"
            )
            raise RequestError(400, CODE, message, shape.where)

    async def check(self, language: LanguageModel, grammar: ReplyGrammar, key: str = "") -> str:
        """Compiles a grammar.

        Args:
            key: name of the API key that asks.

        Returns:
            The grammar for ``Sampling.grammar``.

        Raises:
            RequestError: a part is impossible, not supported, too large or takes too long to
                compile; or the key has too many grammars that compile.
        """
        where = grammar.shapes[0].where if grammar.shapes else None
        if not language.stop_ids:
            message = "this model has no end-of-sequence token, which a grammar needs"
            raise RequestError(400, CODE, message, where)
        digest = hashlib.sha256(grammar.lark.encode(errors="surrogatepass")).digest()
        if self._process(language).has_passed(digest):
            return grammar.lark
        async with self._turn(key):
            await self._compile(language, grammar, where)
        self._process(language).remember(digest)
        return grammar.lark

    async def _compile(
        self, language: LanguageModel, grammar: ReplyGrammar, where: str | None
    ) -> None:
        deadline_s = self._settings.grammar_deadline_s
        request = {
            "deadline_s": deadline_s,
            "lark": grammar.lark,
            "shapes": SHAPES.dump_python(grammar.shapes),
        }
        try:
            async with asyncio.timeout(deadline_s + START_S):
                answer = await self._process(language).compile(json.dumps(request).encode())
        except (OSError, EOFError, TimeoutError) as error:
            message = "the process that compiles grammars has ended or is still starting"
            raise RequestError(
                503, "grammars_busy", message, retry_after_s=RETRY_AFTER_S
            ) from error
        if answer is None:
            message = (
                f"the grammar took longer than {deadline_s:g} s to compile "
                "(POMONA_GATEWAY_GRAMMAR_DEADLINE_S), or too much memory; ask for something simpler"
            )
            raise RequestError(400, CODE, message, where)
        if "error" in answer:
            raise RequestError(400, CODE, answer["error"], answer["parameter"])

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncGenerator[None]:
        """Waits until the key, and then the gateway, may compile another grammar."""
        turn = self._keys.setdefault(key, _KeyTurn())
        turn.waiting += 1
        held: list[asyncio.Semaphore] = []
        try:
            try:
                async with asyncio.timeout(self._settings.grammar_deadline_s):
                    for semaphore in (turn.semaphore, self._all):
                        await semaphore.acquire()
                        held.append(semaphore)
            except TimeoutError as error:
                raise RequestError(
                    503,
                    "grammars_busy",
                    "too many grammars wait to be compiled",
                    retry_after_s=RETRY_AFTER_S,
                ) from error
            yield
        finally:
            for semaphore in held:
                semaphore.release()
            turn.waiting -= 1
            if not turn.waiting:
                self._keys.pop(key, None)

    def _process(self, language: LanguageModel) -> _CompileProcess:
        if self._closed:
            raise RequestError(503, "shutting_down", "this gateway is shutting down")
        name = (str(language.facts.path), language.stop_ids)
        process = self._processes.pop(name, None)
        if process is None or process.has_ended():
            process = _CompileProcess(language, self._settings)
        self._processes[name] = process
        while len(self._processes) > MAX_PROCESSES:
            self._processes.popitem(last=False)[1].close()
        return process


@dataclass(slots=True)
class _KeyTurn:
    """Grammars of one key that compile or wait."""

    semaphore: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAX_COMPILING_OF_KEY)
    )
    waiting: int = 0


class _CompileProcess:
    """The process that compiles the grammars of one model; it forks for each grammar."""

    def __init__(self, language: LanguageModel, settings: GatewaySettings) -> None:
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        self._arguments = [
            str(language.facts.path),
            str(language.facts.vocab_size),
            json.dumps(language.stop_ids),
            str(settings.max_schema_bytes),
            str(settings.max_schema_depth),
        ]
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def has_passed(self, digest: bytes) -> bool:
        """Tells whether a grammar with this digest has compiled before."""
        return digest in self._passed

    def remember(self, digest: bytes) -> None:
        """Notes that a grammar has compiled."""
        self._passed[digest] = None
        if len(self._passed) > MAX_PASSED:
            self._passed.popitem(last=False)

    def has_ended(self) -> bool:
        """Tells whether the process was started and is gone."""
        return self._process is not None and self._process.poll() is not None

    async def compile(self, request: bytes) -> dict[str, Any] | None:
        """Compiles a grammar in a fork of the process.

        Returns:
            Its answer; None when the kernel ended it.

        Raises:
            EOFError, OSError: the process itself has ended.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=ours)
            await asyncio.to_thread(self._send, theirs)
        pid = 0
        try:
            pid = int(await reader.readline() or b"0")
            if not pid:
                raise EOFError
            writer.write(request + b"\n")
            await writer.drain()
            try:
                async with asyncio.timeout(SLOW_AFTER_S):
                    line = await reader.readline()
            except TimeoutError:
                with suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, pid, SLOW_NICENESS)
                line = await reader.readline()
            pid = 0
            return json.loads(line) if line.endswith(b"\n") else None
        except ConnectionError:
            pid = 0
            return None
        finally:
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            writer.close()

    def _send(self, descriptor: socket.socket) -> None:
        if self._process is None:
            self._start()
        assert self._control is not None
        socket.send_fds(self._control, [b"g"], [descriptor.fileno()])

    def _start(self) -> None:
        control, theirs = socket.socketpair()
        control.settimeout(START_S)
        with theirs:
            self._process = subprocess.Popen(
                [
                    *module_command("grammar.compile_process"),
                    *self._arguments,
                ],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            )
        self._control = control

    def close(self) -> None:
        """Ends the process and its forks."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _exceeds(value: Any, limit: int) -> bool:
    """Tells whether a JSON value has more than ``limit`` characters, in a time that the limit
    bounds."""
    size = 0
    pending: list[Any] = [value]
    while pending:
        inner = pending.pop()
        match inner:
            case dict():
                members = cast("dict[str, Any]", inner)
                size += len(members)
                pending += members.keys() if size <= limit else ()
                pending += members.values() if size <= limit else ()
            case list():
                items = cast("list[Any]", inner)
                size += len(items)
                pending += items if size <= limit else ()
            case str():
                size += len(inner) + 2
            case _:
                size += 1
        if size > limit:
            return True
    return False
