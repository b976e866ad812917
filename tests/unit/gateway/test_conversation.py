"""Tests that conversations which a template cannot express are rewritten without losing a word."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona_gateway.parsers import (
    ToolCallArguments,
    known_notation,
    reply_reader,
    written_calls,
)
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.conversation import (
    CALLS_TEXT,
    OPENING,
    adapt_messages,
    adapt_tools,
)
from pomona_gateway.text.rendered_chat import render_conversation
from pomona_gateway.text.template_traits import (
    STRICT,
    TemplateTraits,
    format_call_id,
    probe_template,
)

NULL = {"type": "null"}
PERMISSIVE = """
{%- if tools %}[tools]{{ tools | tojson }}{% endif %}
{%- for m in messages %}[{{ m.role }}]
{%- if m.reasoning_content %}(think){{ m.reasoning_content }}(/think){% endif %}
{{- m.content }}
{%- for c in m.tool_calls or [] %}(call){{ c.function | tojson }}{% endfor %}
{%- endfor %}[assistant]"""

ALTERNATING = """
{%- for m in messages %}
{%- if m.role not in ['user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}{% endif %}
[{{ m.role }}]{{ m.content | trim }}
{%- endfor %}[assistant]"""

NINE_CHARACTERS = """
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}
{%- set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for m in rest %}
{%- if m.role == 'user' %}[INST]{% if loop.first and system is defined %}{{ system }} {% endif %}
{{- m.content }}[/INST]
{%- elif m.role == 'tool' %}
{%- if m.tool_call_id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}
[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]
{%- elif m.tool_calls %}[TOOL_CALLS]
{%- for c in m.tool_calls %}
{%- if c.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}
{{- c.function | tojson }}{% endfor %}
{%- elif m.role == 'assistant' %}{{ m.content }}
{%- else %}{{ raise_exception('only user, assistant and tool roles') }}{% endif %}
{%- endfor %}"""

ONE_CALL = """
{%- for t in tools or [] %}{{ t.function.name + ': ' + t.function.description }}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'tool' %}[ipython]{{ m.content }}
{%- elif m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('single calls only') }}{% endif %}
[assistant]{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{
 m.tool_calls[0].function.arguments | tojson }}}
{%- else %}[{{ m.role }}]{{ m.content }}{% endif %}
{%- endfor %}[assistant]"""

NAME_IN_ID = """
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for m in messages %}[{{ m.role }}]{{ m.content }}
{%- for c in m.tool_calls or [] %}<begin>{{ c.id }}<arguments>
{%- if c.function.arguments is string %}{{ c.function.arguments }}
{%- else %}{{ c.function.arguments | tojson }}{% endif %}<end>{% endfor %}
{%- endfor %}[assistant]"""

TEXT_ARGUMENTS = """
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for m in messages %}[{{ m.role }}]{{ m.content }}
{%- for c in m.tool_calls or [] %}<call>{{ c.function.name }}<sep>{{ c.function.arguments }}</call>
{%- endfor %}{% endfor %}[assistant]"""

LEADING_SYSTEM_ONLY = """
{%- for m in messages %}
{%- if m.role == 'system' and not loop.first %}
{%- else %}[{{ m.role }}]{{ m.content }}{% endif %}
{%- if m.thinking is defined %}(analysis){{ m.thinking }}{% endif %}
{%- endfor %}[assistant]"""

RESULTS_BEFORE_ANSWERS = """
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' and loop.index0 and loop.previtem.role == 'tool' %}
{{- raise_exception('an answer follows the results') }}{% endif %}
{%- set later = messages[loop.index:] | selectattr('role', 'equalto', 'assistant') | list %}
[{{ m.role }}]{% if not (m.tool_calls and later) %}{{ m.content }}{% endif %}
{%- for c in m.tool_calls or [] %}(call){{ c.function | tojson }}{% endfor %}
{%- endfor %}[assistant]"""

TEMPLATES = {
    "results before answers": RESULTS_BEFORE_ANSWERS,
    "permissive": PERMISSIVE,
    "alternating": ALTERNATING,
    "nine characters": NINE_CHARACTERS,
    "one call": ONE_CALL,
    "name in id": NAME_IN_ID,
    "text arguments": TEXT_ARGUMENTS,
    "leading system only": LEADING_SYSTEM_ONLY,
}


def render(
    source: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> str:
    return ChatTemplate(source, {}).render(messages, tools)


@cache
def traits_of(source: str) -> TemplateTraits:
    template = ChatTemplate(source, {})
    return probe_template(template.render)


def test_probing_finds_what_each_template_expresses() -> None:
    found = {name: traits_of(source) for name, source in TEMPLATES.items()}
    assert found["permissive"] == TemplateTraits()
    assert not found["alternating"].system
    assert not found["alternating"].calls
    assert not found["alternating"].repeated_users
    assert not found["alternating"].assistant_first
    assert found["nine characters"].call_id == "nine"
    assert found["nine characters"].system
    assert not found["nine characters"].late_system
    assert not found["nine characters"].content_with_calls
    assert not found["one call"].parallel_calls
    assert not found["one call"].bare_tools
    assert found["name in id"].call_id == "functions"
    assert not found["results before answers"].user_after_results
    assert not found["results before answers"].content_with_calls
    assert found["text arguments"].text_arguments
    assert not found["leading system only"].late_system
    assert found["leading system only"].reasoning == "thinking"


def test_probing_a_broken_template_raises_nothing() -> None:
    assert not traits_of("{{ raise_exception('no') }}").system
    assert not traits_of("{{ messages[7].content }}").repeated_users


def test_a_template_that_needs_tools_is_probed_with_tools() -> None:
    source = PERMISSIVE.replace("{%- if tools %}", "{{ tools | first | length }}{%- if tools %}")
    assert source != PERMISSIVE
    assert traits_of(source) == TemplateTraits()


def test_a_message_of_the_system_in_the_middle_becomes_user_text() -> None:
    messages = [
        {"role": "system", "content": "first"},
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "be brief"},
    ]
    adapted = adapt_messages(messages, traits_of(ALTERNATING))
    assert adapted == [{"role": "user", "content": "first\n\nhi\n\nbe brief"}]


def test_a_message_of_the_developer_is_one_of_the_system() -> None:
    adapted = adapt_messages([{"role": "developer", "content": "brief"}], TemplateTraits())
    assert adapted == [{"role": "system", "content": "brief"}]


def test_an_opening_assistant_message_gets_a_user_message_before_it() -> None:
    adapted = adapt_messages([{"role": "assistant", "content": "hello"}], STRICT)
    assert [message["content"] for message in adapted] == [OPENING, "hello"]


def test_call_ids_are_mapped_alike_in_calls_and_results() -> None:
    traits = traits_of(NINE_CHARACTERS)
    calls = [{"id": "call_long_identifier", "function": {"name": "f", "arguments": {}}}]
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "5", "tool_call_id": "call_long_identifier"},
    ]
    adapted = adapt_messages(messages, traits)
    assert adapted[1]["tool_calls"][0]["id"] == adapted[2]["tool_call_id"]
    assert len(adapted[2]["tool_call_id"]) == 9
    assert render(NINE_CHARACTERS, adapted).endswith("[TOOL_RESULTS]5[/TOOL_RESULTS]")


def test_parallel_calls_come_in_sequence_each_before_its_result() -> None:
    calls = [
        {"id": f"c{i}", "function": {"name": f"f{i}", "arguments": {"a": i}}} for i in range(2)
    ]
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "second", "tool_call_id": "c1"},
        {"role": "tool", "content": "first", "tool_call_id": "c0"},
    ]
    text = render(ONE_CALL, adapt_messages(messages, traits_of(ONE_CALL)))
    places = [text.index(word) for word in ('"f0"', "first", '"f1"', "second")]
    assert places == sorted(places)


NO_CALLS = """
{%- if tools %}[tools]{{ tools | tojson }}{% endif %}
{%- for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"""
CHANGES_LISTS = """
{%- set ids = [] %}
{%- for m in messages %}[{{ m.role }}]{{ m.content }}
{%- for c in m.tool_calls or [] %}{% set _ = ids.append(c.function.name) %}
{{- c.function | tojson }}{% endfor %}
{%- if m.role == 'tool' %}({{ ids.pop(0) }}){% endif %}
{%- endfor %}[assistant]"""
ONE_TYPE = """
{%- macro walk(s) %}{% if s.type is not string %}{{ raise_exception('one type') }}{% endif %}
{{- s.type }}{% endmacro %}
{%- for t in tools or [] %}{{ t.function.name }}
{%- for p in t.function.parameters.properties.values() %}{{ walk(p) }}{% endfor %}{% endfor %}
{%- for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"""


def test_calls_of_a_template_without_calls_are_written_in_the_models_own_notation() -> None:
    notation = known_notation("<|tool_list_start|>").calls
    assert notation is not None
    function = {"name": "get", "arguments": {"city": "Oslo"}}
    messages = [
        {"role": "user", "content": "Well?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
            CALLS_TEXT: written_calls(notation, [("get", {"city": "Oslo"})]),
        },
        {"role": "tool", "content": "Rain", "tool_call_id": "1"},
    ]
    template = ChatTemplate(NO_CALLS, {})
    assert render_conversation(template, traits_of(NO_CALLS), {"messages": messages}).text == (
        "[user]Well?[assistant]<|tool_call_start|>[get(city='Oslo')]<|tool_call_end|>"
        "[tool]Rain[assistant]"
    )


@pytest.mark.parametrize(
    "template",
    [
        *("<tool_call>", "<function=", "<arg_key>", "<minimax:tool_call>", "[TOOL_CALLS]"),
        *("<|tool_call> <tool_call|>", "<|tool_list_start|>", "<|tool_calls_section_begin|>"),
    ],
)
def test_written_calls_are_read_back(template: str) -> None:
    notation = known_notation(template)
    assert notation.calls is not None
    arguments = {"city": "Oslo", "days": 3, "extra": {"names": ["a", "b"]}}
    schema = {"properties": {"city": {"type": "string"}}}
    reader = reply_reader(notation, {"get": schema}, "")
    text = written_calls(notation.calls, [("get", arguments), ("get", {"city": "Rome"})])
    parts = [*reader.push(text), *reader.finish()]
    pieces = "".join(part.text for part in parts if isinstance(part, ToolCallArguments))
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(pieces)
    assert (first, decoder.raw_decode(pieces, end)[0]) == (arguments, {"city": "Rome"})


def test_a_template_may_change_its_own_lists_and_not_the_messages() -> None:
    traits = traits_of(CHANGES_LISTS)
    assert (traits.calls, traits.parallel_calls) == (True, True)


def test_tools_with_several_types_are_simplified_for_a_template_that_needs_one() -> None:
    kinds = {"a": {"type": ["string", "null"]}, "b": {"anyOf": [{"type": "object"}, NULL]}}
    function = {"name": "get", "parameters": {"type": "object", "properties": kinds}}
    tools = [{"type": "function", "function": function}]
    template = ChatTemplate(ONE_TYPE, {})
    variables = {"messages": [{"role": "user", "content": "Well?"}], "tools": tools}
    text = render_conversation(template, traits_of(ONE_TYPE), variables).text
    assert text == "getstringobject[user]Well?[assistant]"


def test_a_tool_without_description_gets_an_empty_one_where_the_template_needs_it() -> None:
    traits = traits_of(ONE_CALL)
    tools = adapt_tools([{"type": "function", "function": {"name": "f"}}], traits)
    assert "f: " in render(ONE_CALL, [{"role": "user", "content": "x"}], tools)


@pytest.mark.parametrize(("call_id", "expected"), [("abcdefghi", "abcdefghi"), ("call_1", None)])
def test_ids_of_nine_characters_are_kept(call_id: str, expected: str | None) -> None:
    mapped = format_call_id("nine", call_id, "f", 0)
    assert len(mapped) == 9
    assert expected in (None, mapped)
    assert mapped == format_call_id("nine", call_id, "f", 5)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[str]]:
    """Draws messages in any order of roles. Returns them and the words in them."""
    messages: list[dict[str, Any]] = []
    words: list[str] = []

    def word() -> str:
        words.append(f"w{len(words)}x")
        return words[-1]

    count = 0
    for role in draw(st.lists(st.sampled_from("sssuuuaaac"), min_size=1, max_size=8)):
        if role == "s":
            messages.append({"role": "system", "content": word()})
        elif role == "u":
            messages.append({"role": "user", "content": word()})
        elif role == "a":
            messages.append({"role": "assistant", "content": word()})
        else:
            calls: list[dict[str, Any]] = []
            for _ in range(draw(st.integers(1, 3))):
                function = {"name": f"name{count}", "arguments": {"k": word()}}
                words.append(f"name{count}")
                calls.append({"id": f"call_{count:020}", "type": "function", "function": function})
                count += 1
            content = word() if draw(st.booleans()) else ""
            messages.append({"role": "assistant", "content": content, "tool_calls": calls})
            for call in draw(st.permutations(calls)):
                result = {"role": "tool", "content": word(), "tool_call_id": call["id"]}
                messages.append({**result, "name": call["function"]["name"]})
    return messages, words


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None)
@given(conversation=conversations())
def test_every_template_renders_every_word_of_every_conversation(
    name: str, conversation: tuple[list[dict[str, Any]], list[str]]
) -> None:
    messages, words = conversation
    before = json.dumps(messages)
    source = TEMPLATES[name]
    traits = traits_of(source)
    text = render(source, adapt_messages(messages, traits))
    assert [word for word in words if word not in text] == []
    strict = adapt_messages(messages, STRICT)
    assert [word for word in words if word not in json.dumps(strict)] == []
    render(ALTERNATING, strict)
    assert json.dumps(messages) == before
