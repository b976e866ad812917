"""Grammars compile in processes that a limit of time and of memory ends."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pomona.errors import RequestError
from pomona_gateway.grammar import GrammarChecker, GrammarShape, JsonShape, RegexShape, body_grammar
from pomona_gateway.settings import GatewaySettings
from pomona_gateway.text import LanguageModel, load_language_model
from support.models.tiny_model import write_tiny_model
from support.waiting import wait_until, wait_until_async

ResultT = TypeVar("ResultT")
DEADLINE_S = 1.0


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Generator[LanguageModel]:
    model = load_language_model(str(write_tiny_model(tmp_path_factory.mktemp("model"))))
    yield model
    model.prompter.close()


def bomb(number: int = 0) -> dict[str, Any]:
    """Returns a schema of a few kilobytes that takes minutes and gigabytes to compile."""
    return {
        "type": "string",
        "allOf": [{"pattern": f"a.{{1,{i}}}b"} for i in range(1 + number, 201)],
    }


def run(work: Callable[[GrammarChecker], Awaitable[ResultT]]) -> ResultT:
    """Runs ``work`` with a checker, and checks that its processes end with it."""

    async def checked() -> ResultT:
        checker = GrammarChecker(GatewaySettings(node="near", grammar_deadline_s=DEADLINE_S))
        try:
            return await work(checker)
        finally:
            started = time.monotonic()
            checker.close()
            assert time.monotonic() - started < 10
            wait_until(lambda: not _compiling(), "the processes that compile to end")

    return asyncio.run(checked())


def _compiling() -> list[str]:
    """Returns the processes of this test process that compile grammars, on Linux."""
    found: list[str] = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes()
            status = (file.parent / "stat").read_text()
        except OSError:
            continue
        if b"compile_process" in command and f" {os.getpid()} " in status:
            found.append(file.parent.name)
    return found


@pytest.mark.slow
def test_grammars_pass_or_name_their_fault(language: LanguageModel) -> None:
    async def work(checker: GrammarChecker) -> None:
        good = body_grammar(JsonShape({"type": "object"}, "here"))
        assert await checker.check(language, good) == good.lark
        assert await checker.check(language, good) == good.lark
        for shape, named in (
            (JsonShape({"properties": {"a": {"contains": 1}}}, "format"), "'/properties/a'"),
            (RegexShape("(", "regex"), "'regex'"),
            (GrammarShape("start: missing", "lark"), "'lark'"),
        ):
            with pytest.raises(RequestError, match=named) as caught:
                await checker.check(language, body_grammar(shape))
            assert (caught.value.status, caught.value.param) == (400, shape.where)

    run(work)


@pytest.mark.slow
def test_a_bomb_is_ended_and_costs_its_own_key_only(language: LanguageModel) -> None:
    async def work(checker: GrammarChecker) -> None:
        good = body_grammar(RegexShape("a+", "regex"))
        await checker.check(language, good)  # the process has started
        bombs = [
            asyncio.create_task(
                checker.check(language, body_grammar(JsonShape(bomb(i), "format")), "bomber")
            )
            for i in range(6)
        ]
        await asyncio.sleep(0)
        other = body_grammar(RegexShape("b+", "regex"))
        assert await checker.check(language, other, "other") == other.lark
        assert not any(task.done() and not task.exception() for task in bombs)
        refused = await asyncio.gather(*bombs, return_exceptions=True)
        assert all(isinstance(error, RequestError) for error in refused)
        assert {error.status for error in refused if isinstance(error, RequestError)} == {400, 503}

    run(work)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
def test_a_grammar_that_nobody_waits_for_is_ended(language: LanguageModel) -> None:
    async def work(checker: GrammarChecker) -> None:
        await checker.check(language, body_grammar(RegexShape("a+", "regex")))
        idle = len(_compiling())
        task = asyncio.create_task(
            checker.check(language, body_grammar(JsonShape(bomb(), "format")))
        )
        await wait_until_async(_forks, "a fork")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        wait_until(lambda: not _forks(), "the fork to end")
        assert len(_compiling()) == idle

    run(work)


def _forks() -> list[str]:
    """Returns the forks of the processes that compile grammars."""
    servers = _compiling()
    found: list[str] = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] in servers and fields[0] != "Z":
            found.append(file.parent.name)
    return found


def test_shapes_are_measured_in_a_bounded_time() -> None:
    async def work() -> None:
        checker = GrammarChecker(GatewaySettings(node="near"))
        checker.check_size(JsonShape({"enum": ["x" * 60_000]}, "format"))
        wide: list[Any] = [[]] * 2_000_000
        for schema in ({"enum": ["x" * 70_000]}, {"enum": wide}, {"x" * 70_000: 1}):
            with pytest.raises(RequestError, match="MAX_SCHEMA_BYTES"):
                checker.check_size(JsonShape(schema, "format"))

    asyncio.run(work())
