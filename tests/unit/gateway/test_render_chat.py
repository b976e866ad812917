"""Conversations are rendered, and their calls read back, whatever form a template demands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pomona_gateway.parsers import (
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
    read_replies,
)
from pomona_gateway.text import render_chat

USER = {"role": "user", "content": "Well?"}
CALL = {
    "id": "call_0123456789",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("get_weather", "now")
]
_HEAD = """{%- if tools %}<tools>{{ tools | tojson }}</tools>{% endif -%}
{%- for m in messages -%}"""
_FOOT = """{%- endfor -%}{%- if add_generation_prompt %}<|model|>{% endif -%}"""
_USER = "{%- if m.role == 'user' %}<|user|>{{ m.content }}<|over|>"
_TOOL = "{%- elif m.role == 'tool' %}<|tool|>{{ m.content }}<|over|>"
_ASSISTANT = "{%- elif m.role == 'assistant' %}<|model|>"
_CALLS = """{%- for c in m.tool_calls or [] %}<do>{"name": "{{ c.function.name }}", "arguments":
 {{- ' ' + (c.function.arguments | tojson) }}}</do>{% endfor -%}"""
TEMPLATES = {
    "ids of nine characters": _HEAD
    + _USER
    + _TOOL
    + _ASSISTANT
    + "{%- for c in m.tool_calls or [] %}{% if c.id | length != 9 %}"
    + "{{ raise_exception('nine') }}{% endif %}{% endfor -%}"
    + "{{ m.content }}"
    + _CALLS
    + "<|over|>{%- endif -%}"
    + _FOOT,
    "content that is null": _HEAD
    + _USER
    + _TOOL
    + _ASSISTANT
    + "{%- if m.content is none %}"
    + _CALLS
    + "{% else %}{{ m.content }}{% endif %}<|over|>{%- endif -%}"
    + _FOOT,
    "content in parts": _HEAD
    + _USER.replace("m.content", "m.content[0]['text'] + ''")
    + _TOOL.replace("m.content", "m.content[0]['text'] + ''")
    + _ASSISTANT
    + "{{ m.content[0]['text'] + '' }}"
    + _CALLS
    + "<|over|>{%- endif -%}"
    + _FOOT,
    "instructions behind the last turn": _HEAD
    + _USER
    + _TOOL
    + _ASSISTANT
    + "{{ m.content }}"
    + _CALLS
    + "<|over|>{%- endif -%}{%- endfor -%}<|system|>Call something.<|over|>"
    + "{%- if add_generation_prompt %}<|model|>{% endif -%}",
    "no calls at the end": _HEAD
    + "{%- if loop.last and m.role == 'assistant' %}<|model|>{{ m.content }}"
    + _USER.replace("{%- if", "{%- elif")
    + _TOOL
    + _ASSISTANT
    + "{{ m.content }}"
    + _CALLS
    + "<|over|>{%- endif -%}"
    + _FOOT,
}


def assistant(content: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [CALL]}


@pytest.mark.parametrize("content", [None, ""])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_is_rendered_and_read_back(name: str, content: str | None) -> None:
    template = TEMPLATES[name]
    whole = render_chat(template, [USER, assistant(content)], TOOLS)
    reply = whole.rpartition("<|model|>")[2].partition("<|system|>")[0]
    assert "get_weather" in reply
    reader = read_replies(template, TOOLS, render_chat(template, [USER], TOOLS))
    parts = [*reader.push(reply), *reader.finish()]
    assert [x.name for x in parts if isinstance(x, ToolCallStart)] == ["get_weather"]
    written = "".join(x.text for x in parts if isinstance(x, ToolCallArguments))
    assert json.loads(written) == {"city": "Paris"}
    assert not any(isinstance(x, TextDelta | ReasoningDelta) for x in parts), parts


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_beside_a_call_is_in_the_prompt(name: str) -> None:
    result = {"role": "tool", "content": "Sun.", "tool_call_id": CALL["id"]}
    later = {"role": "user", "content": "And Rome?"}
    messages = [USER, assistant("Let me look."), result, later]
    text = render_chat(TEMPLATES[name], messages, TOOLS)
    words = ("Well?", "Let me look.", "get_weather", "Paris", "Sun.", "And Rome?")
    places = [text.rfind(word) for word in words]
    assert -1 not in places
    assert places == sorted(places), text


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("content", ["", None, []])
def test_a_conversation_that_ends_with_calls_may_have_no_words(name: str, content: Any) -> None:
    messages = [{"role": "user", "content": content}, assistant("Let me look.")]
    assert "Let me look." in render_chat(TEMPLATES[name], messages, TOOLS)


THINKS = """{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.mark.parametrize(
    ("prompt_end", "reply", "expected"),
    [
        ("<think>\n", "<think>\nHm.\n</think>\n\nSun.", ("Sun.", "Hm.")),
        ("<think>\n", "\n<think>Hm.</think>Sun.", ("Sun.", "Hm.")),
        ("", "One.<|im_end|>\n<|im_start|>assistant\n<think>\nHm.\n</think>\n\nTwo.", None),
        ("", "<think>\nHm.\n</think>\n\nSay <think> like this.", ("Say <think> like this.", "Hm.")),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_reasoning_may_begin_twice_or_in_a_second_turn(
    prompt_end: str, reply: str, expected: tuple[str, str] | None, size: int
) -> None:
    reader = read_replies(THINKS, None, render_chat(THINKS, [USER]) + prompt_end)
    parts: list[Any] = []
    for at in range(0, len(reply), size):
        parts += reader.push(reply[at : at + size])
    parts += reader.finish()
    text = "".join(x.text for x in parts if isinstance(x, TextDelta))
    reasoning = "".join(x.text for x in parts if isinstance(x, ReasoningDelta))
    assert (text, reasoning) == (expected or ("One.Two.", "Hm."))


@pytest.mark.parametrize("size", [1, 1000])
def test_reasoning_between_special_tokens_may_follow_text(size: int) -> None:
    template = THINKS.replace("<think>", "<|muse|>").replace("</think>", "<|/muse|>")
    reader = read_replies(template, None, render_chat(template, [USER]))
    reply = "One.<|muse|>\nHm.\n<|/muse|>\n\nTwo."
    parts: list[Any] = []
    for at in range(0, len(reply), size):
        parts += reader.push(reply[at : at + size])
    parts += reader.finish()
    assert "".join(x.text for x in parts if isinstance(x, ReasoningDelta)) == "Hm."
    assert "".join(x.text for x in parts if isinstance(x, TextDelta)) == "One.Two."
