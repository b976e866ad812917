"""A model's notation is derived from its template: what the template renders is read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona_gateway.parsers import (
    Part,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
    read_replies,
)
from pomona_gateway.text import render_chat
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.notation_process import load_notation
from support.models.chat_templates import (
    ALWAYS_PROMPTS,
    BARE,
    HARMONY,
    LISTED,
    MLX_LM,
    NAMES_FIRST,
    PROMPTED,
    RECIPIENTS,
    TEMPLATES,
)

PROPERTIES: dict[str, dict[str, Any]] = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "dry": {"type": "boolean"},
    "share": {"type": "number"},
    "names": {"type": "array", "items": {"type": "string"}},
    "extra": {"type": "object"},
    "note": {"type": ["string", "null"]},
}


def tool(name: str, properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    tool("get_weather", PROPERTIES),
    tool("now", {}),
    tool("edit", {"path": {"type": "string"}, "code": {"type": "string"}}),
]
USER = {"role": "user", "content": "Well?"}
Call = tuple[str, dict[str, Any]]


def gathered(parts: Sequence[Part]) -> tuple[str, str, list[Call]]:
    """The answer, the reasoning and the calls of a reply."""
    answer = "".join(part.text for part in parts if isinstance(part, TextDelta))
    reasoning = "".join(part.text for part in parts if isinstance(part, ReasoningDelta))
    calls: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, ToolCallStart):
            calls.append((part.name, ""))
        elif isinstance(part, ToolCallArguments):
            name, written = calls[-1]
            calls[-1] = name, written + part.text
    return answer, reasoning, [(name, json.loads(written or "{}")) for name, written in calls]


def read(
    template: str, reply: str, size: int, prompt: str = "", tools: Sequence[Any] = TOOLS
) -> tuple[str, str, list[Call]]:
    reader = read_replies(template, tools, prompt)
    parts: list[Part] = []
    for at in range(0, len(reply), size):
        parts += reader.push(reply[at : at + size])
    return gathered([*parts, *reader.finish()])


def message(content: str, reasoning: str, calls: Sequence[Call]) -> dict[str, Any]:
    out: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        out |= {"reasoning_content": reasoning, "thinking": reasoning}
    if calls:
        out["tool_calls"] = [
            {
                "id": f"abcdefgh{n}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for n, (name, arguments) in enumerate(calls)
        ]
    return out


def reply_of(template: str, turn: dict[str, Any]) -> tuple[str, str]:
    """The prompt, and what the model wrote when its turn became this."""
    prompt = render_chat(template, [USER], TOOLS)
    whole = render_chat(template, [USER, turn], TOOLS)
    assert whole.startswith(prompt)
    return prompt, whole[len(prompt) :]


words = st.text("abz \n.,'\"{}[]()=:\\é", max_size=12)
"""No angle brackets: a bare value that holds its own closing mark cannot be told."""
plain = st.text("abcxyz .,", min_size=1, max_size=12).map(str.strip).filter(bool)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "city": words.filter(lambda text: text == text.strip("\n")),
        "days": st.integers(-9, 10**6),
        "dry": st.booleans(),
        "share": st.floats(0, 1),
        "names": st.lists(plain, max_size=3),
        "extra": st.dictionaries(st.sampled_from("abc"), st.integers(0, 9) | plain, max_size=2),
        "note": st.none() | plain,
    },
)
calls = st.lists(
    st.tuples(st.just("get_weather"), arguments) | st.just(("now", dict[str, Any]())),
    min_size=1,
    max_size=3,
)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=40, deadline=None)
@given(calls, st.just("") | plain, st.just("") | plain, st.integers(1, 40))
def test_what_a_template_renders_is_read_back_however_it_is_cut(
    name: str, called: list[Call], content: str, reasoning: str, size: int
) -> None:
    template = TEMPLATES[name]
    prompt, reply = reply_of(template, message(content, reasoning, called))
    assert read(template, reply, size, prompt) == (content, reasoning, called), reply


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("reasoning", ["", "Hm."])
def test_a_reply_without_calls_is_read_back(name: str, reasoning: str) -> None:
    text = "Use the <muse> tag <do> or {so}, <"
    prompt, reply = reply_of(TEMPLATES[name], message(text, reasoning, []))
    for size in (1, 1000):
        assert read(TEMPLATES[name], reply, size, prompt) == (text, reasoning, [])


@pytest.mark.parametrize("size", [1, 1000])
def test_calls_that_no_mark_begins_are_read(size: int) -> None:
    called: list[Call] = [("now", {}), ("get_weather", {"city": "Rome"})]
    prompt, reply = reply_of(BARE, message("", "", called))
    assert read(BARE, reply, size, prompt) == ("", "", called)
    assert read(BARE, '{"name": "Rome", "parameters": {}}', size)[2] == []
    assert read(BARE, '[get_weather(city="Rome"), now()]', size)[2] == called[::-1]


@pytest.mark.parametrize("size", [1, 1000])
def test_harmony_is_read(size: int) -> None:
    called: list[Call] = [("get_weather", {"city": "<|end|>"})]
    prompt, reply = reply_of(HARMONY, message("", "Hm.", called))
    assert read(HARMONY, reply, size, prompt) == ("", "Hm.", called)
    prompt, reply = reply_of(HARMONY, message("Yes.", "Hm.", []))
    assert read(HARMONY, reply, size, prompt) == ("Yes.", "Hm.", [])


NOW: Call = ("now", {})
WRITTEN = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
TURNS = {
    "an answer": (RECIPIENTS, " to=user<|says|>Yes.<|over|>", ("Yes.", "", [])),
    "reasoning and an answer": (
        RECIPIENTS,
        " to=mind<|says|>Hm.<|next|><|turn|>model to=user<|says|>Yes.<|over|>",
        ("Yes.", "Hm.", []),
    ),
    "an answer and a call": (
        RECIPIENTS,
        " to=user<|says|>Let me see.<|next|><|turn|>model to=now<|says|>{}<|over|>",
        ("Let me see.", "", [NOW]),
    ),
    "reasoning and two calls": (
        RECIPIENTS,
        ' to=mind<|says|>Hm.<|next|><|turn|>model to=get_weather<|says|>{"city": "Rome"}<|next|>'
        "<|turn|>model to=now<|says|>{}<|over|>",
        ("", "Hm.", [("get_weather", {"city": "Rome"}), NOW]),
    ),
    "what ends a turn": (RECIPIENTS, " to=user<|says|>Yes.<|over|><|end|>\n", ("Yes.", "", [])),
    "an answer that the prompt begins": (PROMPTED, "all\n<|body|>Yes.<|over|>", ("Yes.", "", [])),
    "a call that the prompt begins": (
        PROMPTED,
        'get_weather\n<|body|>{"city": "Rome"}\n<|from|>model\n<|to|>now\n<|body|>{}<|over|>',
        ("", "", [("get_weather", {"city": "Rome"}), NOW]),
    ),
    "an answer and a call after a begun head": (
        PROMPTED,
        "all\n<|body|>Hm.\n<|from|>model\n<|to|>now\n<|body|>{}<|over|>",
        ("Hm.", "", [NOW]),
    ),
    "a list after a word": (
        ALWAYS_PROMPTS,
        f" doit[{WRITTEN}]<|over|>",
        ("", "", [("get_weather", {"city": "Rome"})]),
    ),
    "a word that begins no call": (ALWAYS_PROMPTS, "Just doit now.", ("Just doit now.", "", [])),
    "a fenced list": (
        LISTED,
        f"```\n[\n    {WRITTEN}\n]\n```",
        ("", "", [("get_weather", {"city": "Rome"})]),
    ),
    "a fence that holds no call": (LISTED, "```py\nx = 1\n```", ("```py\nx = 1\n```", "", [])),
    "a call that mlx-lm's parser reads": (
        MLX_LM,
        'Hm.<atem:function_calls>\n<atem:invoke name="get_weather">\n<atem:parameter name="city">'
        "Rome</atem:parameter>\n</atem:invoke>\n</atem:function_calls>",
        ("Hm.", "", [("get_weather", {"city": "Rome"})]),
    ),
    "a mark that mlx-lm's parser does not read": (
        MLX_LM,
        "Use <atem:function_calls> blocks.",
        ("Use <atem:function_calls> blocks.", "", []),
    ),
    "a name and an object": (
        NAMES_FIRST,
        'get_weather\n{"city": "Rome"}',
        ("", "", [("get_weather", {"city": "Rome"})]),
    ),
    "a name that begins an answer": (NAMES_FIRST, "now is the time", ("now is the time", "", [])),
}


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_replies_in_turns_and_bare_calls_are_read_however_they_are_cut(
    name: str, size: int
) -> None:
    template, reply, expected = TURNS[name]
    prompt = render_chat(template, [USER], TOOLS, add_generation_prompt=True)
    assert read(template, reply, size, prompt) == expected


LINES, SHORT, OBJECTS = (
    TEMPLATES["tags on lines of their own"],
    TEMPLATES["tags in one line"],
    TEMPLATES["objects in tags"],
)
ROME: Call = ("get_weather", {"city": "Rome"})
MISTAKES = {
    "a call inside of an open reasoning": (
        LINES,
        "Let me look.\n<do>\n<call=get_weather>\n<arg=city>\nRome\n</arg>\n</call>\n</do>",
        ("", "Let me look.", [ROME]),
    ),
    "a call that the reasoning only mentions": (
        OBJECTS,
        '<do>\n{"name": "now", "arguments": {}}\n</do> no.\n</muse>\n\nHello',
        ("Hello", '<do>\n{"name": "now", "arguments": {}}\n</do> no.', []),
    ),
    "an argument that is not closed": (
        LINES,
        "<do>\n<call=edit>\n<arg=path>\na.py\n<arg=code>\nx=1\n</arg>\n</call>\n</do>",
        ("", "", [("edit", {"path": "a.py", "code": "x=1"})]),
    ),
    "a last argument that is not closed": (
        LINES,
        "<do>\n<call=edit>\n<arg=path>\na.py\n</call>\n</do>",
        ("", "", [("edit", {"path": "a.py"})]),
    ),
    "a reply that ends in an argument": (
        SHORT,
        "<do>edit<k>path</k><v>a.py",
        ("", "", [("edit", {"path": "a.py"})]),
    ),
    "an end tag that is missing": (
        SHORT,
        "<do>edit<k>path</k><v>a.py</v>",
        ("", "", [("edit", {"path": "a.py"})]),
    ),
    "code that holds the closing marks": (
        LINES,
        '<do>\n<call=edit>\n<arg=code>\nsay("</arg></call></do>")\n</arg>\n</call>\n</do>',
        ("", "", [("edit", {"code": 'say("</arg></call></do>")'})]),
    ),
    "values that the schema types": (
        LINES,
        "<do>\n<call=get_weather>\n<arg=dry>\nTrue\n</arg>\n<arg=note>\n1.10\n</arg>\n"
        "<arg=city>\n42\n</arg>\n<arg=days>\n3\n</arg>\n<arg=names>\n['a']\n</arg>\n"
        "</call>\n</do>",
        (
            "",
            "",
            [
                (
                    "get_weather",
                    {"dry": True, "note": "1.10", "city": "42", "days": 3, "names": ["a"]},
                )
            ],
        ),
    ),
    "a further key": (
        OBJECTS,
        '<do>\n{"id": 1, "name": "get_weather", "arguments": {"city": "Rome"}, "type": "f"}</do>',
        ("", "", [ROME]),
    ),
    "parameters for arguments": (
        OBJECTS,
        '<do>{"name": "get_weather", "parameters": {"city": "Rome"}}</do>',
        ("", "", [ROME]),
    ),
    "arguments before the name, as text": (
        OBJECTS,
        '<do>{"arguments": "{\\"city\\": \\"Rome\\"}", "name": "get_weather"}</do>',
        ("", "", [ROME]),
    ),
    "two objects in one block": (
        OBJECTS,
        '<do>\n{"name": "now", "arguments": {}}\n{"name": "get_weather", "arguments": '
        '{"city": "Rome"}}\n</do>',
        ("", "", [("now", {}), ROME]),
    ),
    "a Python dictionary": (
        OBJECTS,
        "<do>{'name': 'get_weather', 'arguments': {'city': 'Rome', 'dry': True,}}</do>",
        ("", "", [("get_weather", {"city": "Rome", "dry": True})]),
    ),
    "a mark of reasoning in the answer": (
        OBJECTS,
        "<muse>\na\n</muse>\n\nUse `<muse>` like <muse>this</muse> ok",
        ("Use `<muse>` like <muse>this</muse> ok", "a", []),
    ),
    "the begin of a mark at the end": (OBJECTS, "so <d", ("so <d", "", [])),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_what_models_get_wrong_is_read_all_the_same(name: str, size: int) -> None:
    template, reply, expected = MISTAKES[name]
    prompt = "<|turn|>model\n<muse>\n" if "reasoning" in name and "answer" not in name else ""
    assert read(template, reply, size, prompt) == expected


@pytest.mark.slow
def test_a_notation_is_derived_in_a_process_that_a_template_cannot_hold_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notation = load_notation(ChatTemplate(LINES, {"eos_token": "<|over|>"}))
    assert notation.calls is not None
    assert notation.calls.fields is not None
    assert notation.reasoning == ("<muse>", "</muse>")
    monkeypatch.setattr("pomona_gateway.text.notation_process.DEADLINE_S", 0.5)
    monkeypatch.setattr("pomona_gateway.text.notation_process.GRACE_S", 1.0)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    held_up = load_notation(ChatTemplate(f"{endless}{{# <think> <tool_call> tool_calls #}}", {}))
    assert held_up.reasoning == ("<think>", "</think>")
    assert held_up.calls is not None
