"""A model's chat template may do what it likes: its process ends, and the gateway goes on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from pomona.errors import RequestError
from pomona_gateway.templates.chat_template import ChatTemplate
from pomona_gateway.templates.renderer import Renderer

DEADLINE_S = 1.0
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
MESSAGES = [{"role": "user", "content": 'ü\n"\U0001f34e'}]


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    before = set(psutil.Process().children())
    renderer = Renderer(DEADLINE_S)
    yield renderer
    renderer.close()
    assert not set(psutil.Process().children()) - before


def render(renderer: Renderer, source: str, **variables: Any) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>"})
    return asyncio.run(renderer.render(template, {"messages": MESSAGES, **variables}))


def test_a_prompt_is_what_the_template_makes_of_it(renderer: Renderer) -> None:
    source = "{{ bos_token }}{{ messages[0].content }}{{ big }}{{ tools is none }}"
    expected = ChatTemplate(source, {"bos_token": "<s>"}).render(MESSAGES, big=2**70)
    assert render(renderer, source, big=2**70) == expected == f'<s>ü\n"\U0001f34e{2**70}True'


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
def test_a_hostile_template_is_a_400_and_the_next_prompt_is_made(
    renderer: Renderer, source: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(RequestError) as caught:
        render(renderer, source)
    assert time.monotonic() - begun < DEADLINE_S + 2
    assert (caught.value.status, caught.value.code) == (400, "invalid_messages")
    assert "chat template" in caught.value.message
    assert render(renderer, "{{ messages[0].role }}") == "user"


def test_a_process_that_stands_still_is_not_waited_for(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process gets no alarm from the kernel."""
    render(renderer, "")
    monkeypatch.setattr("pomona_gateway.templates.renderer.GRACE_S", 0.0)
    own = [p for p in psutil.Process().children() if "pomona_gateway.templates" in p.cmdline()]
    for process in own:
        process.suspend()
    with pytest.raises(RequestError, match="chat template"):
        render(renderer, "{{ messages[0].role }}")
    monkeypatch.undo()
    assert render(renderer, "{{ messages[0].role }}") == "user"


def test_what_a_template_says_of_its_messages_is_told(renderer: Renderer) -> None:
    with pytest.raises(RequestError, match="no system here"):
        render(renderer, "{{ raise_exception('no system here') }}")


def test_several_prompts_at_once_each_get_their_own(renderer: Renderer) -> None:
    async def ask() -> list[str]:
        template = ChatTemplate("{{ n }}", {})
        return await asyncio.gather(
            *(renderer.render(template, {"messages": [], "n": n}) for n in range(50))
        )

    assert asyncio.run(ask()) == [str(n) for n in range(50)]


def test_a_template_ends_though_nobody_waits_for_it_any_more() -> None:
    asked = {
        "source": ENDLESS,
        "special_tokens": {},
        "variables": {"messages": []},
        "deadline_s": 0.3,
    }
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "pomona_gateway.templates"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        encoding="ascii",
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.close()
        assert process.wait(5) < 0
