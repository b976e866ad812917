"""Prompts for models whose template does not render tools."""

from __future__ import annotations

from typing import Any

import pytest

from pomona_gateway.text.conversation import calls_as_text
from pomona_gateway.text.tool_instructions import with_tool_instructions

USER = {"role": "user", "content": "Weather?"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def assistant(content: str | None, *cities: str) -> dict[str, Any]:
    """Returns an assistant message that calls ``weather`` once for each city."""
    calls = [
        {"type": "function", "id": city, "function": {"name": "weather", "arguments": {"c": city}}}
        for city in cities
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def test_tool_calls_and_results_become_assistant_and_user_messages() -> None:
    results = [{"role": "tool", "content": text, "tool_call_id": "x"} for text in ("sun", "rain")]
    messages = [USER, assistant(None, "Rome", "Oslo"), *results, USER]
    written = calls_as_text(messages)
    assert [message["role"] for message in written] == ["user", "assistant", "user", "user"]
    assert written[1]["content"] == (
        '<tool_call>\n{"name": "weather", "arguments": {"c": "Rome"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"c": "Oslo"}}\n</tool_call>'
    )
    assert written[2]["content"] == (
        "<tool_response>\nsun\n</tool_response>\n<tool_response>\nrain\n</tool_response>"
    )
    [message] = calls_as_text([assistant("Hm.", "Rome")])
    assert message["content"].startswith("Hm.\n<tool_call>")


@pytest.mark.parametrize("before", [[], [{"role": "system", "content": "Be brief."}]])
def test_tool_instructions_are_added_to_the_one_system_message(
    before: list[dict[str, Any]],
) -> None:
    contents: set[str] = set()
    for forced in (False, True):
        system, user = with_tool_instructions([*before, USER], [TOOL], forced)
        assert user == USER
        assert system["role"] == "system"
        assert '{"name": "weather", "parameters": {"type": "object"}}' in system["content"]
        assert all(message["content"] in system["content"] for message in before)
        contents.add(system["content"])
    assert len(contents) == 2
