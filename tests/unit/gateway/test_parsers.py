"""Tool calls and reasoning are read from every notation, however the text is cut."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pomona_gateway.parsers import (
    Part,
    ReasoningDelta,
    ReplyReader,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
    known_notation,
    reply_reader,
)
from pomona_gateway.parsers.derivation.known_notations import with_vocabulary

SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
}


@dataclass(frozen=True)
class Case:
    template: str
    reply: str
    parts: tuple[Part, ...]
    prompt: str = ""


def call(**arguments: Any) -> tuple[Part, Part]:
    return ToolCallStart("weather"), ToolCallArguments(json.dumps(arguments), last=True)


CASES = {
    "text": Case("", "just <text>", (TextDelta("just <text>"),)),
    "hermes": Case(
        "<tool_call>",
        'Let me see.<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
        (TextDelta("Let me see."), *call(city="Rome"), *call(city="Oslo")),
    ),
    "hermes broken": Case(
        "<tool_call>",
        "<tool_call>\n{broken\n</tool_call> on",
        (TextDelta("<tool_call>\n{broken\n</tool_call> on"),),
    ),
    "hermes unclosed": Case(
        "<tool_call>",
        '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}',
        call(city="Rome"),
    ),
    "thought and call": Case(
        "</think> <tool_call>",
        "<think>\nhm, a <b>\n</think>\n\nYes."
        '<tool_call>{"name": "weather", "arguments": {}}</tool_call>',
        (ReasoningDelta("hm, a <b>"), TextDelta("Yes."), *call()),
    ),
    "thought opened by the prompt": Case(
        "<think>",
        "hm</think>\n\nYes.",
        (ReasoningDelta("hm"), TextDelta("Yes.")),
        prompt="<|assistant|><think>\n",
    ),
    "thought that never ends": Case("<think>", "<think>hm", (ReasoningDelta("hm"),)),
    "qwen coder": Case(
        "<function=",
        "<tool_call>\n<function=weather>\n<parameter=city>\n5\n</parameter>\n"
        "<parameter=days>\n5\n</parameter>\n</function>\n</tool_call>",
        call(city="5", days=5),
    ),
    "glm": Case(
        "<arg_key>",
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>5</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>5</arg_value>\n</tool_call>",
        call(city="5", days=5),
    ),
    "mistral list": Case(
        "[TOOL_CALLS]",
        '[TOOL_CALLS][{"name": "weather", "arguments": {"days": 1}}]',
        call(days=1),
    ),
    "mistral names": Case(
        "[TOOL_CALLS]",
        'ok [TOOL_CALLS]weather[ARGS]{"days": 1}[TOOL_CALLS]weather[ARGS]{"days": 2}',
        (TextDelta("ok "), *call(days=1), *call(days=2)),
    ),
    "mistral arguments": Case(
        "[TOOL_CALLS] [ARGS]",
        '[TOOL_CALLS]weather[ARGS]{"days": 1}[TOOL_CALLS]weather[ARGS]{"days": 2}',
        (*call(days=1), *call(days=2)),
    ),
    "llama tag": Case(
        "<|python_tag|>",
        '<|python_tag|>{"name": "weather", "parameters": {"days": 1}}',
        call(days=1),
    ),
    "llama bare": Case(
        "<|python_tag|>", '\n{"name": "weather", "parameters": {"days": 1}}', call(days=1)
    ),
    "llama after text": Case(
        "<|python_tag|>",
        'Let me see.\n\n{"name": "weather", "parameters": {"days": 1}}',
        (TextDelta("Let me see."), *call(days=1)),
    ),
    "llama example in text": Case(
        "<|python_tag|>",
        'Write {"name": "weather", "parameters": {"days": 1}} to call.',
        (TextDelta('Write {"name": "weather", "parameters": {"days": 1}} to call.'),),
    ),
    "python after text": Case(
        "<|tool_list_start|>",
        "Let me see. <|tool_call_start|>[weather(city='Rome', days=2)]<|tool_call_end|>",
        (TextDelta("Let me see. "), *call(city="Rome", days=2)),
    ),
    "python quotes that are not escaped": Case(
        "<|tool_list_start|>",
        '<|tool_call_start|>[weather(city="say("a") = b\n", days="2")]<|tool_call_end|>',
        call(city='say("a") = b\n', days=2),
    ),
    "python strings without quotes": Case(
        "<|tool_list_start|>",
        "<|tool_call_start|>[weather(city=New York, days=2)]<|tool_call_end|>",
        call(city="New York", days=2),
    ),
    "python arguments by position": Case(
        "<|tool_list_start|>",
        "<|tool_call_start|>[weather('Rome', 2)]<|tool_call_end|>",
        call(city="Rome", days=2),
    ),
    "python without commas": Case(
        "<|tool_list_start|>",
        '<|tool_call_start|>[weather(days=2city="Rome")]<|tool_call_end|>',
        call(days=2, city="Rome"),
    ),
    "marked values of any type": Case(
        "<start_function_call>",
        "<start_function_call>call:weather{city: <escape>7<escape>, days: <escape>2<escape>}"
        "<end_function_call>",
        call(city="7", days=2),
    ),
    "text after a call": Case(
        "<tool_call>",
        '<tool_call>{"name": "weather", "arguments": {}}</tool_call>Let me see.',
        (*call(), TextDelta("Let me see.")),
    ),
    "llama text": Case("<|python_tag|>", "no {call}", (TextDelta("no {call}"),)),
    "llama other json": Case("<|python_tag|>", '{"a": 1}', (TextDelta('{"a": 1}'),)),
    "deepseek": Case(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"days": 1}\n```<｜tool▁call▁end｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"days": 2}'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        (*call(days=1), *call(days=2)),
    ),
    "harmony": Case(
        "<|channel|><|message|>",
        "<|channel|>analysis<|message|>hm <x><|end|><|start|>assistant<|channel|>commentary "
        'to=functions.weather <|constrain|>json<|message|>{"city": "\\"R\\""}<|call|>',
        (ReasoningDelta("hm <x>"), *call(city='"R"')),
    ),
    "hermes with a mark inside": Case(
        "<tool_call>",
        '<tool_call>{"name": "weather", "arguments": {"city": "</tool_call>\\""}}</tool_call>',
        call(city='</tool_call>"'),
    ),
    "hermes list": Case(
        "<tool_call>",
        '<tool_call>[{"name": "weather", "arguments": {"days": 1}}, '
        '{"name": "weather", "arguments": {"days": 2}}]</tool_call>',
        (*call(days=1), *call(days=2)),
    ),
    "hermes otherwise": Case(
        "<tool_call>",
        '<tool_call>{"arguments": {"days": 1}, "name": "weather"}</tool_call>'
        '<tool_call>{"name": "weather", "arguments": "{\\"days\\": 2}"}</tool_call>'
        '<tool_call>{"name": "weather"}</tool_call>',
        (*call(days=1), *call(days=2), *call()),
    ),
    "hermes cut": Case(
        "<tool_call>",
        '<tool_call>{"name": "weather", "arguments": {"city": "Ro',
        (ToolCallStart("weather"), ToolCallArguments('{"city": "Ro')),
    ),
    "hermes and more": Case(
        "<tool_call>",
        '<tool_call>{"name": "weather", "arguments": {}} on</tool_call>',
        (*call(), TextDelta("on")),
    ),
    "qwen coder without arguments": Case(
        "<function=",
        "<tool_call>\n<function=weather>\n</function>\n</tool_call>",
        call(),
    ),
    "qwen coder twice in one mark": Case(
        "<function=",
        "<tool_call><function=weather><parameter=days>1</parameter></function>\n"
        "<function=weather><parameter=days>2</parameter></tool_call>",
        (*call(days=1), *call(days=2)),
    ),
    "glm without arguments": Case("<arg_key>", "<tool_call>weather\n</tool_call>", call()),
    "harmony without arguments": Case(
        "<|channel|><|message|>",
        "<|channel|>commentary to=functions.weather<|message|><|call|>",
        call(),
    ),
    "harmony no call": Case(
        "<|channel|><|message|>",
        "<|channel|>commentary to=functions.weather<|message|>Rome<|call|>",
        (TextDelta("Rome"),),
    ),
    "harmony final": Case(
        "<|channel|><|message|>",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        (ReasoningDelta("hm"), TextDelta("Yes.")),
    ),
}


def joined(parts: list[Part]) -> list[Part]:
    """Joins consecutive parts of one kind."""
    out: list[Part] = []
    for part in parts:
        last = out[-1] if out else None
        if isinstance(part, TextDelta) and isinstance(last, TextDelta):
            out[-1] = TextDelta(last.text + part.text)
        elif isinstance(part, ReasoningDelta) and isinstance(last, ReasoningDelta):
            out[-1] = ReasoningDelta(last.text + part.text)
        elif (
            isinstance(part, ToolCallArguments)
            and isinstance(last, ToolCallArguments)
            and not last.last
        ):
            out[-1] = ToolCallArguments(last.text + part.text, part.last)
        else:
            out.append(part)
    return out


def parser(case: Case, tools: bool = True) -> ReplyReader:
    return reply_reader(known_notation(case.template), SCHEMAS if tools else None, case.prompt)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_every_notation_is_read_however_it_is_cut(name: str, size: int) -> None:
    case = CASES[name]
    reader = parser(case)
    parts: list[Part] = []
    for at in range(0, len(case.reply), size):
        parts += reader.push(case.reply[at : at + size])
    parts += reader.finish()
    assert joined(parts) == joined(list(case.parts))


@pytest.mark.parametrize(
    "name",
    [
        *("hermes", "qwen coder", "glm", "mistral list", "mistral arguments", "llama bare"),
        *("deepseek", "harmony", "python after text", "marked values of any type"),
    ],
)
def test_a_call_that_a_limit_cuts_leaves_no_markup(name: str) -> None:
    reply = CASES[name].reply
    texts = [x.text for x in CASES[name].parts if isinstance(x, TextDelta)]
    for end in range(1, len(reply)):
        reader = parser(CASES[name])
        parts = [*reader.push(reply[:end]), *reader.finish(cut=True)]
        text = "".join(x.text for x in parts if isinstance(x, TextDelta))
        assert "".join(texts).startswith(text.rstrip()) or text in "{[", reply[:end]


def test_text_comes_out_at_once_when_no_mark_can_follow() -> None:
    reader = parser(CASES["hermes"])
    assert reader.push("hello <") == [TextDelta("hello ")]
    assert reader.push("b>") == [TextDelta("<b>")]


@pytest.mark.parametrize(
    "name",
    [
        *("hermes", "qwen coder", "glm", "mistral list", "mistral arguments", "llama bare"),
        *("deepseek", "harmony"),
    ],
)
def test_a_call_comes_piece_by_piece_its_name_first(name: str) -> None:
    reader = parser(CASES[name])
    parts = [part for character in CASES[name].reply for part in reader.push(character)]
    pieces = [part for part in parts if isinstance(part, ToolCallArguments)]
    first = next(n for n, part in enumerate(parts) if isinstance(part, ToolCallStart))
    assert isinstance(parts[first + 1], ToolCallArguments)
    assert len(pieces) > sum(piece.last for piece in pieces) > 0


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_turn_that_ends_and_goes_on_is_one_reply(size: int) -> None:
    notation = replace(known_notation("<think> <tool_call>"), turn_end="<|over|>")
    header = "<|turn|>model\n"
    reader = reply_reader(notation, SCHEMAS, f"<|turn|>user\nHi<|over|>\n{header}")
    called = '<tool_call>{"name": "weather", "arguments": {"days": 1}}</tool_call>'
    reply = f"Let me see.<|over|>\n{header}{called}<|over|>"
    parts = [
        x for at in range(0, len(reply), size) for x in reader.push(reply[at : at + size])
    ] + reader.finish()
    assert joined(parts) == joined([TextDelta("Let me see."), *call(days=1)])


def test_special_tokens_tell_the_notation_where_the_template_does_not() -> None:
    tokens = ["<|tool_call_start|>", "<|tool_call_end|>", "<|im_end|>"]
    plain = known_notation("")
    assert with_vocabulary(plain, tokens).calls == known_notation("<|tool_list_start|>").calls
    assert with_vocabulary(plain, ["<|im_end|>"]) == plain
    assert with_vocabulary(known_notation("<tool_call>"), tokens) == known_notation("<tool_call>")


def test_without_tools_calls_are_text() -> None:
    reader = parser(CASES["hermes"], tools=False)
    assert reader.push("<tool_call>{}</tool_call>") == [TextDelta("<tool_call>{}</tool_call>")]


PIECES = ["<", "<think>", "</think>", "<tool_call>", "</tool_call>", "{", "z"]


@settings(deadline=None)
@given(
    st.sampled_from(sorted(CASES)),
    st.lists(st.sampled_from(PIECES), max_size=9),
)
@example("glm", ["<tool_call>", "z"])
def test_whatever_a_model_writes_the_parser_ends_and_says_something(
    name: str, pieces: list[str]
) -> None:
    reader = parser(CASES[name])
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()
    visible = "".join(x.text for x in parts if isinstance(x, TextDelta | ReasoningDelta))
    assert visible.count("z") == pieces.count("z")
