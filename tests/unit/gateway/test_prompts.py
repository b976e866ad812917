"""A model whose template knows no tools sees them, its calls and their results as text."""

from __future__ import annotations

from typing import Any

import pytest

from pomona_gateway.text.prompts import with_taught_calls, with_written_calls

USER = {"role": "user", "content": "Weather?"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def called(content: str | None, *cities: str) -> dict[str, Any]:
    calls = [
        {"type": "function", "id": city, "function": {"name": "weather", "arguments": {"c": city}}}
        for city in cities
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def test_calls_and_results_become_turns_that_any_template_has() -> None:
    results = [{"role": "tool", "content": text, "tool_call_id": "x"} for text in ("sun", "rain")]
    written = with_written_calls([USER, called(None, "Rome", "Oslo"), *results, USER])
    assert [message["role"] for message in written] == ["user", "assistant", "user", "user"]
    assert written[1]["content"] == (
        '<tool_call>\n{"name": "weather", "arguments": {"c": "Rome"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"c": "Oslo"}}\n</tool_call>'
    )
    assert written[2]["content"] == (
        "<tool_response>\nsun\n</tool_response>\n<tool_response>\nrain\n</tool_response>"
    )
    assert with_written_calls([called("Hm.", "Rome")])[0]["content"].startswith("Hm.\n<tool_call>")


@pytest.mark.parametrize("before", [[], [{"role": "system", "content": "Be brief."}]])
def test_tools_are_taught_in_one_system_message(before: list[dict[str, Any]]) -> None:
    lessons: set[str] = set()
    for forced in (False, True):
        system, user = with_taught_calls([*before, USER], [TOOL], forced)
        assert user == USER
        assert system["role"] == "system"
        assert '{"name": "weather", "parameters": {"type": "object"}}' in system["content"]
        assert all(message["content"] in system["content"] for message in before)
        lessons.add(system["content"])
    assert len(lessons) == 2
