"""A hostile template or tokenizer costs its process, and the gateway goes on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pomona.errors import RequestError
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.limits import PromptTooLongError, TextLimit
from pomona_gateway.text.prompter import Prompter
from support.models.tiny_model import tiny_tokenizer, write_tiny_model

DEADLINE_S = 1.0
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = "(x+x+)+y"
JUST_BELOW = "x" * 22 + " "
"""Takes slightly fewer steps than the library's limit for a match."""
MESSAGES = [{"role": "user", "content": 'ü\n"\U0001f34e'}]


@pytest.fixture
def prompter(tmp_path: Path) -> Iterator[Prompter]:
    """A prompter whose tokenizer takes exponential time for a run of ``x``."""
    before = set(psutil.Process().children())
    prompter = Prompter(write_tiny_model(tmp_path / "tiny", cut_by=HOSTILE), DEADLINE_S)
    yield prompter
    prompter.close()
    assert not set(psutil.Process().children()) - before


def render(prompter: Prompter, source: str, **variables: Any) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>"})
    text, ids = asyncio.run(prompter.render(template, {"messages": MESSAGES, **variables}))
    assert ids == tiny_tokenizer().encode(text, chat=True)
    return text


def test_a_prompt_is_the_rendered_template(prompter: Prompter) -> None:
    source = "{{ bos_token }}{{ messages[0].content }}{{ big }}{{ tools is none }}"
    expected = ChatTemplate(source, {"bos_token": "<s>"}).render(MESSAGES, big=2**70)
    assert render(prompter, source, big=2**70) == expected == f'<s>ü\n"\U0001f34e{2**70}True'


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        ENDLESS,
        "{{ 7 ** (7 ** 9) }}",
        "{% set s = 'x' * 10 ** 10 %}",
        "{{ '%10000000000d' % 1 }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    ],
)
def test_a_hostile_template_is_a_400_and_the_next_prompt_works(
    prompter: Prompter, source: str
) -> None:
    with pytest.raises(RequestError) as caught:
        render(prompter, source)
    assert (caught.value.status, caught.value.code) == (400, "invalid_messages")
    assert "chat template" in caught.value.message
    assert render(prompter, "{{ messages[0].role }}") == "user"


@pytest.mark.slow
def test_a_stopped_process_is_killed(prompter: Prompter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel sends no alarm to a stopped process."""
    render(prompter, "")
    monkeypatch.setattr("pomona_gateway.text.prompter.GRACE_S", 0.0)
    own = [
        p
        for p in psutil.Process().children()
        if "pomona_gateway.text.prompt_process" in p.cmdline()
    ]
    for process in own:
        process.suspend()
    with pytest.raises(RequestError, match="chat template"):
        render(prompter, "{{ messages[0].role }}")
    monkeypatch.undo()
    assert render(prompter, "{{ messages[0].role }}") == "user"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (JUST_BELOW * 1000, f"had not finished this text after {DEADLINE_S:g} s"),
        ("x" * 40, "cannot split this text: .*retry-limit"),
        ("hello " * 20_000_000, "took too much memory"),
    ],
)
def test_a_text_that_takes_too_long_to_encode_is_a_400_and_the_next_text_works(
    prompter: Prompter, text: str, reason: str
) -> None:
    for _ in range(2):
        with pytest.raises(RequestError, match=reason) as caught:
            asyncio.run(prompter.encode(text))
        assert (caught.value.status, caught.value.code) == (400, "invalid_text")
    assert asyncio.run(prompter.encode(JUST_BELOW)) == tiny_tokenizer().encode(JUST_BELOW, True)


@pytest.mark.slow
def test_a_chat_that_takes_too_long_to_encode_is_an_error_of_the_tokenizer(
    prompter: Prompter,
) -> None:
    with pytest.raises(RequestError, match="tokenizer had not finished") as caught:
        render(prompter, "{{ text }}", text=JUST_BELOW * 1000)
    assert caught.value.code == "invalid_text"


def test_a_templates_own_error_message_is_returned(prompter: Prompter) -> None:
    with pytest.raises(RequestError, match="no system here"):
        render(prompter, "{{ raise_exception('no system here') }}")


def test_concurrent_requests_each_get_their_own_prompt(prompter: Prompter) -> None:
    async def render_all() -> list[tuple[str, array[int]]]:
        template = ChatTemplate("{{ n }}", {})
        return await asyncio.gather(
            *(prompter.render(template, {"messages": [], "n": n}) for n in range(50))
        )

    assert [text for text, _ in asyncio.run(render_all())] == [str(n) for n in range(50)]


@pytest.mark.slow
def test_a_template_is_killed_even_when_its_gateway_is_gone(tmp_path: Path) -> None:
    request = {
        "template": ENDLESS,
        "special_tokens": {},
        "deadline_s": 0.3,
    }
    with subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-m",
            "pomona_gateway.text.prompt_process",
            str(write_tiny_model(tmp_path)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        encoding="ascii",
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.close()
        assert process.wait(30) < 0


def test_a_text_that_cannot_fit_is_refused_by_its_length(prompter: Prompter) -> None:
    limit = TextLimit(context_length=10, longest_token=4, parameter="input")
    at_limit = "x y " * 20
    assert len(asyncio.run(prompter.encode(at_limit, limit=limit))) == 80
    variables = {"messages": [], "text": f"{at_limit}z"}
    for work in (
        prompter.encode(f"{at_limit}z", limit=limit),
        prompter.render(ChatTemplate("{{ text }}", {}), variables, limit=limit),
    ):
        with pytest.raises(PromptTooLongError) as caught:
            asyncio.run(work)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
        assert caught.value.prompt_tokens >= 10


@pytest.mark.slow
def test_a_short_prompt_does_not_wait_for_a_long_one(prompter: Prompter) -> None:
    async def scenario() -> None:
        long = asyncio.create_task(prompter.encode(JUST_BELOW * 10_000))
        await asyncio.sleep(0.1)
        assert await prompter.encode("hi") == tiny_tokenizer().encode("hi", True)
        assert not long.done()
        await asyncio.gather(long, return_exceptions=True)

    asyncio.run(scenario())
