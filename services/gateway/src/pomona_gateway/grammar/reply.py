"""The grammar of a whole reply: reasoning if the model reasons, then text or calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pomona_gateway.grammar.lark import LarkWriter
from pomona_gateway.grammar.shapes import Shape
from pomona_gateway.grammar.tool_calls import (
    MAX_CALLS,
    CallableFunction,
    bare_calls,
    one_call,
    some_calls,
)
from pomona_gateway.parsers.derivation.known_notations import HARMONY
from pomona_gateway.parsers.notation import CallNotation, ReplyNotation, tags


@dataclass(frozen=True, slots=True)
class ReplyGrammar:
    """A grammar in Lark, and the parts that came from the client."""

    lark: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Content that a reply may have after the reasoning.

    Attributes:
        shape: text of this shape; None for any text.
        functions: calls of these.
        forced: calls and nothing else.
        parallel: more than one call.
    """

    shape: Shape | None = None
    functions: Sequence[CallableFunction] = ()
    forced: bool = False
    parallel: bool = True

    @property
    def only_inputs(self) -> bool:
        """True when only the inputs of custom tools are constrained, and only where the reply
        calls one."""
        held = [function for function in self.functions if not function.free]
        inputs = all(function.input_grammar for function in held)
        return self.shape is None and not self.forced and inputs


def body_grammar(shape: Shape) -> ReplyGrammar:
    """A reply that is text only, from its first token."""
    lark = LarkWriter({})
    start = lark.shape(shape)
    return ReplyGrammar(lark.grammar(start), tuple(lark.shapes))


def dialogue_grammar(
    output: ReplyNotation, opened: bool, special: Mapping[str, int], outcome: Outcome
) -> ReplyGrammar:
    """A chat model's reply.

    Args:
        opened: the prompt already opened the reasoning.
        special: the tokenizer's special tokens.
    """
    lark = LarkWriter(special)
    if output.harmony:
        start = _harmony(lark, outcome)
    else:
        assert not outcome.functions or output.calls is not None
        start = f"{_reasoning(lark, output.reasoning, opened)} {_tagged(lark, output, outcome)}"
    return ReplyGrammar(lark.grammar(start), tuple(lark.shapes))


def _reasoning(lark: LarkWriter, marks: tuple[str, str] | None, opened: bool) -> str:
    if marks is None:
        return ""
    rest = f"{lark.until(marks[1])} GAP"
    return rest if opened else f"({lark.text(marks[0])} {rest})?"


def _tagged(lark: LarkWriter, output: ReplyNotation, outcome: Outcome) -> str:
    body = lark.shape(outcome.shape) if outcome.shape is not None else ""
    if body and output.answer[0].strip():
        begin, end = output.answer
        body = f"{lark.text(begin)} {body} {lark.text(end)}"
    if output.calls is None or not outcome.functions:
        return body
    most = MAX_CALLS if outcome.parallel else 1
    if outcome.forced or body:
        whole = some_calls(lark, output.calls, outcome.functions, most)
        return whole if outcome.forced else f"({body} | {whole})"
    if output.calls_stand_bare:
        return f"({bare_calls(lark, output.calls, outcome.functions, most)} | TEXT)"
    mark = output.call_marks[0]
    calls = some_calls(lark, output.calls, outcome.functions, most, mark)
    begun = f"{lark.until(mark)} {calls}"
    # Where no mark ends the calls, nothing can follow them.
    return f"({begun})* TEXT" if _marks_end(output.calls) else f"({begun} | TEXT)"


def _marks_end(calls: CallNotation) -> bool:
    return any(x.startswith("<") for x in tags(f"{calls.tail} {calls.closing}"))


def _harmony(lark: LarkWriter, outcome: Outcome) -> str:
    again = lark.text("<|end|><|start|>assistant")
    thought = f"{lark.text('<|channel|>analysis<|message|>')} TEXT {again}"
    preamble = f"{lark.text('<|channel|>commentary<|message|>')} TEXT {again}"
    body = lark.shape(outcome.shape) if outcome.shape is not None else "TEXT"
    final = f"{lark.text('<|channel|>final<|message|>')} {body}"
    if not outcome.functions:
        return f"({thought})* {final}"
    call = one_call(lark, HARMONY, outcome.functions)
    end = call if outcome.forced else f"({call} | {final})"
    return f"({thought} | {preamble})* {end}"
