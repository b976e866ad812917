"""A custom tool's Lark grammar binds its input, in JSON and between tags."""

from __future__ import annotations

import json

import pytest
from llguidance import LLMatcher, LLTokenizer

from pomona_gateway.grammar import (
    CallableFunction,
    JsonShape,
    Outcome,
    dialogue_grammar,
    json_escaped,
)
from pomona_gateway.parsers import (
    ToolCallArguments,
    ToolCallStart,
    known_notation,
    reply_reader,
    written_calls,
)

TOKENIZER = LLTokenizer("byte")
SCHEMA = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
PATCH = r"""
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?
hunk: "*** Add File: " filename LF add_line+ | "*** Update File: " filename LF change_line+
filename: /(.+)/
add_line: "+" /(.*)/ LF -> line
change_line: ("+" | "-" | " ") /(.*)/ LF
%import common.LF
"""
PATCHED = '*** Begin Patch\n*** Add File: a "b".py\n+print("x\\t")\n*** End Patch\n'


def accepts(grammar: str, text: str) -> bool:
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    size = len(text.encode())
    return (
        matcher.try_consume_tokens(TOKENIZER.tokenize_str(text)) == size and matcher.is_accepting()
    )


@pytest.mark.parametrize(
    ("source", "good", "bad"),
    [
        (r'start: /[a-z]+\n"x"/', 'abc\n"x"', 'abc"x"'),
        (r'start: "a\"b" /[^"]*/', 'a"b c\n\t\\', 'a"b "'),
        (r"start: /\s+\S+/", ' \t\nx"y\\', "x"),
        ("start: /.+/", 'a"\\\tü', "a\nb"),
        ("start: /.+/s", "a\nb", ""),
        (r"start: /[\x20-\x7e]{3}/", 'a"\\', "ab\n"),
        (r"start: /\W\d?/", "\n1", "a1"),
        ('start: line+\nline: /[^\\n]*/ "\\n"', 'a\nb"\n', "a"),
        ('start: A | "b"i\nA: "aa"', "B", "c"),
        (PATCH, PATCHED, "*** Begin Patch\n*** End Patch\n"),
    ],
)
def test_the_escapes_of_a_text_match_where_the_text_does(source: str, good: str, bad: str) -> None:
    grammar = f"%llguidance {{}}\n{json_escaped(source)}"
    assert accepts(grammar, json.dumps(good, ensure_ascii=False)[1:-1])
    assert not accepts(grammar, json.dumps(bad, ensure_ascii=False)[1:-1])


@pytest.mark.parametrize("source", ["start: %json {}", "start: /(?=a)b/", "start: <[1]>", "%x"])
def test_what_cannot_be_rewritten_is_an_error(source: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_escaped(source)


@pytest.mark.parametrize("template", ["<tool_call>", "<function=", "<|tool_list_start|>"])
def test_a_forced_call_of_a_custom_tool_keeps_to_its_grammar(template: str) -> None:
    notation = known_notation(template)
    assert notation.calls is not None
    source = PATCH.replace("%import common.LF", r"LF: /\n/").replace(" -> line", "")
    function = CallableFunction("apply_patch", JsonShape(SCHEMA, ""), source, "input")
    outcome = Outcome(functions=(function,), forced=True, parallel=False)
    grammar = dialogue_grammar(notation, opened=False, special={}, outcome=outcome).lark
    reply = written_calls(notation.calls, [("apply_patch", {"input": PATCHED})])
    if notation.calls.style == "keywords":
        reply = reply.replace(repr(PATCHED), json.dumps(PATCHED))
    assert accepts(grammar, reply)
    assert not accepts(grammar, reply.replace("Add File", "Move File"))
    reader = reply_reader(notation, {"apply_patch": SCHEMA}, "")
    parts = [*reader.push(reply), *reader.finish()]
    assert [part.name for part in parts if isinstance(part, ToolCallStart)] == ["apply_patch"]
    written = "".join(part.text for part in parts if isinstance(part, ToolCallArguments))
    assert json.loads(written) == {"input": PATCHED}
