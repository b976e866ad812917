"""Replies that a grammar permits are read as tool calls by the parser of the same notation."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from tokenizers import AddedToken

from pomona_gateway.grammar import (
    CallableFunction,
    ChoiceShape,
    JsonShape,
    Outcome,
    dialogue_grammar,
    regex_grammar,
)
from pomona_gateway.parsers import (
    ReasoningDelta,
    ReplyNotation,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
    known_notation,
    reply_reader,
    written_calls,
)
from pomona_gateway.parsers.derivation.known_notations import HARMONY
from pomona_gateway.text import Tokenizer
from support.models.tiny_model import tiny_backend

SPECIAL = (
    "<|over|>",
    "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|call|>", "[TOOL_CALLS]",
    "[ARGS]", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "<arg_value>", "</arg_value>",
)  # fmt: skip
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", "Oslo"], "type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "units": {"anyOf": [{"$ref": "#/$defs/units"}, {"type": "null"}]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"units": {"enum": ["metric", "other"]}},
}
FUNCTION = CallableFunction("weather", JsonShape(SCHEMA, "tools[0].function.parameters"))
CALLED = {"city": "Rome", "days": 3}
TEMPLATES = {
    "hermes": "<tool_call>",
    "xml": "<tool_call> <function=",
    "glm": "<tool_call> <arg_key>",
    "mistral list": "[TOOL_CALLS]",
    "mistral": "[TOOL_CALLS] [ARGS]",
    "llama": "<|python_tag|>",
    "deepseek fenced": "<｜tool▁calls▁begin｜> ```json",
    "deepseek": "<｜tool▁calls▁begin｜>",
    "harmony": "<|channel|> <|message|>",
}


def build() -> Tokenizer:
    backend = tiny_backend()
    backend.add_special_tokens([AddedToken(name) for name in SPECIAL])
    return Tokenizer(backend)


TOKENIZER = build()
SIZE = TOKENIZER.size
END = TOKENIZER.special_tokens["<|over|>"]
RULES = LLTokenizer(TOKENIZER.rules(), n_vocab=SIZE, eos_token=[END])


def begin(output: ReplyNotation, outcome: Outcome, opened: bool = False) -> LLMatcher:
    made = dialogue_grammar(output, opened, TOKENIZER.special_tokens, outcome)
    matcher = LLMatcher(RULES, made.lark, log_level=0)
    assert not matcher.is_error(), (matcher.get_error(), made.lark)
    return matcher


def allows(matcher: LLMatcher, text: str) -> bool:
    """Returns true if the grammar permits this text as the whole reply."""
    ids = list(TOKENIZER.encode(text, chat=True))
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def draw(matcher: LLMatcher, seed: int) -> str:
    """Returns a reply whose tokens are drawn uniformly from those that the grammar permits."""
    chance = random.Random(seed)
    mask = allocate_token_bitmask(1, SIZE)
    ids: list[int] = []
    while not matcher.is_stopped():
        fill_next_token_bitmask(matcher, mask, 0)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little").reshape(-1)[:SIZE]
        token = int(chance.choice(np.flatnonzero(bits).tolist()))
        if token == END:
            break
        assert matcher.consume_token(token)
        ids.append(token)
        assert len(ids) < 5000
    return TOKENIZER.decode(ids, skip_special=False)


def read(output: ReplyNotation, text: str, prompt: str = "") -> list[Any]:
    parser = reply_reader(output, {"weather": SCHEMA}, prompt)
    return [*parser.push(text), *parser.finish()]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "harmony"])
@pytest.mark.parametrize("parallel", [False, True])
def test_whatever_is_drawn_under_a_forced_call_is_read_as_calls(name: str, parallel: bool) -> None:
    output = known_notation(TEMPLATES[name])
    for seed in range(20):
        outcome = Outcome(functions=[FUNCTION], forced=True, parallel=parallel)
        text = draw(begin(output, outcome), seed)
        calls = [part for part in read(output, text) if part != TextDelta("\n")]
        assert calls, text
        assert len(calls) == 2 or parallel
        for called, arguments in zip(calls[::2], calls[1::2], strict=True):
            assert called == ToolCallStart("weather"), text
            assert isinstance(arguments, ToolCallArguments), text
            assert arguments.last
            jsonschema.validate(json.loads(arguments.text), SCHEMA)


def test_harmony_thinks_and_calls() -> None:
    output = known_notation(TEMPLATES["harmony"])
    outcome = Outcome(functions=[FUNCTION], forced=True)
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
        "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
        '{"city": "Rome", "days": 3}'
    )
    assert allows(begin(output, outcome), text)
    assert not allows(begin(output, outcome), "<|channel|>final<|message|>Sunny.")
    called = [ToolCallStart("weather"), ToolCallArguments(json.dumps(CALLED), last=True)]
    assert read(output, text) == [ReasoningDelta("Hm."), *called]


def test_reasoning_comes_before_what_is_held() -> None:
    output = known_notation("<think> <tool_call>")
    outcome = Outcome(shape=ChoiceShape(("yes", "no"), "structured_outputs.choice"))
    assert allows(begin(output, outcome), "<think>a <b> c</think>\n\nyes")
    assert allows(begin(output, outcome), "no")
    assert allows(begin(output, outcome, opened=True), "so</think>\nno")
    assert not allows(begin(output, outcome, opened=True), "no")
    assert not allows(begin(output, outcome), "<think>a</think>maybe")


@pytest.mark.parametrize("name", ["hermes", "xml", "glm", "mistral", "deepseek", "harmony"])
def test_a_reply_is_free_until_it_calls_a_strict_tool(name: str) -> None:
    output = known_notation(TEMPLATES[name])
    outcome = Outcome(functions=[FUNCTION])
    free = "<|channel|>final<|message|>Sunny." if name == "harmony" else "It is <b>sunny</b>."
    assert allows(begin(output, outcome), free)
    if name != "harmony":
        forced = draw(begin(output, Outcome(functions=[FUNCTION], forced=True)), 1)
        assert allows(begin(output, outcome), f"Let me see. {forced}")
        broken = forced.replace("weather", "whether")
        assert not allows(begin(output, outcome), f"Let me see. {broken}")


PATCH = CallableFunction(
    "patch",
    JsonShape({"type": "object", "properties": {"input": {"type": "string"}}}, "tools[1]"),
    regex_grammar("[ab]{1,5}/x"),
    "input",
)
FAMILIES = {
    **TEMPLATES,
    "gemma": "<|tool_call> <tool_call|>",
    "minimax": "<minimax:tool_call>",
    "kimi": "<|tool_calls_section_begin|>",
    "granite": "<|tool_call|>",
    "command": "<|START_ACTION|>",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_input_of_a_custom_tool_is_held_once_the_reply_calls_it(name: str) -> None:
    output = known_notation(FAMILIES[name])
    others = CallableFunction("weather", JsonShape(SCHEMA, "tools[0]"), free=True)
    outcome = Outcome(functions=[others, PATCH])
    assert outcome.only_inputs
    notation = output.calls or HARMONY
    before = "" if output.harmony else "Let me see. "
    free = ("weather", {"city": "Nowhere", "more": [1, {"a": "b)"}]})
    for text, held in (("ab/x", True), ("zz/x", False)):
        call = written_calls(notation, [("patch", {"input": text})])
        assert allows(begin(output, outcome), f"{before}{call}") is held
        if not output.harmony:
            both = written_calls(notation, [free, ("patch", {"input": text})])
            assert allows(begin(output, outcome), f"{before}{both}") is held
    assert allows(begin(output, outcome), f"{before}{written_calls(notation, [free])}")


def test_calls_that_no_mark_begins_are_held_by_their_head() -> None:
    output = known_notation(TEMPLATES["llama"])
    outcome = Outcome(functions=[FUNCTION])
    call = '{"name": "weather", "parameters": {"city": "Rome", "days": 3}}'
    assert allows(begin(output, outcome), "It is {sunny} in Rome.")
    assert allows(begin(output, outcome), call)
    assert allows(begin(output, outcome), call.replace('": "w', '":"w'))
    assert not allows(begin(output, outcome), call.replace("Rome", "Nowhere"))
    assert not allows(begin(output, outcome), f"Hm. {call.replace('3', '99')}")


@pytest.mark.parametrize("name", ["xml", "glm", "gemma"])
@pytest.mark.parametrize(
    ("limits", "good", "bad"),
    [
        ({"pattern": "^[^@|]+@(a|b)$"}, "x@a", "x@c"),
        ({"pattern": "b+"}, "abbc", "acc"),
        ({"minLength": 3, "maxLength": 5}, "abcd", "abcdefg"),
    ],
)
def test_limits_of_a_string_hold_where_it_is_written_bare(
    name: str, limits: dict[str, Any], good: str, bad: str
) -> None:
    output = known_notation(FAMILIES[name])
    assert output.calls is not None
    schema = {"type": "object", "properties": {"city": {"type": "string", **limits}}}
    outcome = Outcome(functions=[CallableFunction("weather", JsonShape(schema, "x"))], forced=True)
    for text, held in ((good, True), (bad, False)):
        call = written_calls(output.calls, [("weather", {"city": text})])
        assert allows(begin(output, outcome), call) is held


def test_with_a_shape_a_reply_is_that_or_calls() -> None:
    output = known_notation(TEMPLATES["hermes"])
    outcome = Outcome(JsonShape({"type": "integer"}, "x"), [FUNCTION])
    assert allows(begin(output, outcome), "12")
    assert not allows(begin(output, outcome), "twelve")
    assert not allows(begin(output, outcome), "12<tool_call>")
    call = draw(begin(output, Outcome(functions=[FUNCTION], forced=True)), 3)
    assert allows(begin(output, outcome), call)
