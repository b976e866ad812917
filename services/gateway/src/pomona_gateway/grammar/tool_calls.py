"""Tool calls as grammars: whatever matches can be read by the notation's own reader."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from llguidance import regex_to_lark

from pomona.errors import RequestError
from pomona_gateway.grammar.json_escaped import json_escaped
from pomona_gateway.grammar.lark import LarkWriter
from pomona_gateway.grammar.shapes import ChoiceShape, JsonShape
from pomona_gateway.parsers.notation import (
    ID_SLOT,
    INDEX_SLOT,
    KEY_SLOT,
    NAME_SLOT,
    CallNotation,
)

MAX_CALLS = 16
"""Most calls in one constrained reply, so that a model which goes on for ever is stopped."""

_SHARED = ("$defs", "definitions")
_COMBINED = ("$ref", "anyOf", "oneOf", "allOf", "not", "if")
_PATTERNS = {INDEX_SLOT: "[0-9]{1,2}", ID_SLOT: "[a-zA-Z0-9]{9}"}
_SLOT = re.compile(f"([{INDEX_SLOT}{ID_SLOT}])")
_CLASS = re.compile(r"\\[^bB]|\[(?:\\.|[^\]\\])*\]")
_GROUP = re.compile(r"\([^()]*\)")
_ANCHOR = re.compile(r"[|^$]|\\[bB]|\(\?[=!<]")
"""Anchors, alternatives and look-around, which a part of a larger expression cannot have."""
_KEYWORDS = r"\(([^()\"']|\"([^\"\\]|\\.)*\"|'([^'\\]|\\.)*'|\([^()]*\))*\)"
"""Arguments of a Python call, with one level of nested parentheses."""


@dataclass(frozen=True, slots=True)
class CallableFunction:
    """A function that a reply may call, and the shape of its arguments.

    Attributes:
        input_grammar: a Lark grammar of the only argument, whose name is ``input_name``; empty
            for none.
        free: the arguments are not constrained.
    """

    name: str
    arguments: JsonShape
    input_grammar: str = ""
    input_name: str = ""
    free: bool = False


@dataclass(frozen=True, slots=True)
class _Member:
    """Literals around the key and around the value of one argument.

    ``quotes``: the literals around a string; None where a string is JSON.
    """

    before: str
    middle: str
    other_middle: str
    after: str
    quotes: tuple[str, str] | None
    python: bool = False


def one_call(
    lark: LarkWriter,
    notation: CallNotation,
    functions: Sequence[CallableFunction],
    lead: str | None = None,
) -> str:
    """Returns the expression of a call of one of the functions.

    Args:
        lead: what stands before the name; None for the notation's own head.
    """
    head = notation.head if lead is None else lead
    calls: list[str] = []
    for function in functions:
        begin = _literal(lark, f"{head}{NAME_SLOT}{notation.middle}", function.name)
        calls.append(f"{begin} {_rest(lark, notation, function)}")
    return "(" + " | ".join(calls) + ")"


def bare_calls(
    lark: LarkWriter, notation: CallNotation, functions: Sequence[CallableFunction], most: int
) -> str:
    """Returns the expression of text and then calls, in a notation that marks calls by nothing.

    A call is known by its head, name and middle, however their white space is. The text before
    it may hold anything else, also calls of free functions.
    """
    begun: list[str] = []
    optional = "".join(f"(TEXT {lark.text(mark)})? " for mark in notation.optional_marks)
    for function in functions:
        if not function.free:
            head = f"{notation.opening}{notation.head}{function.name}{notation.middle}"
            begin = lark.until_pattern(_spaced(head))
            begun.append(f"{optional}{begin} GAP {_rest(lark, notation, function)}")
    more = ""
    if most > 1:
        gap = lark.pattern(r"[ \n;,]{0,4}")
        more = f"({gap} {one_call(lark, notation, functions)}){{0,{most - 1}}}"
    return f"({' | '.join(begun)}) {more} {lark.text(notation.closing)}"


def _rest(lark: LarkWriter, notation: CallNotation, function: CallableFunction) -> str:
    """Returns the expression of a call after its name and what separates the arguments."""
    if function.free:
        return _free(lark, notation, function.name)
    if function.input_grammar:
        arguments = _input(lark, notation, function)
    else:
        arguments = _arguments(lark, notation, function.arguments)
    return f"{arguments} {_literal(lark, notation.tail, function.name)}"


def _free(lark: LarkWriter, notation: CallNotation, name: str) -> str:
    """Returns the expression of any arguments, and the end of their call."""
    tail = _literal(lark, notation.tail, name)
    match notation.style:
        case "json" | "mlx_lm":
            return f"{lark.any_object()} {tail}"
        case "keywords":
            return f"{lark.pattern(_KEYWORDS)} {tail}"
        case "relaxed" | "tagged":
            end = notation.tail.strip() or notation.closing.strip()
            marks = [lark.text(x) for x in lark.special_names(notation.literals) if x not in end]
            inner = " | ".join(f"TEXT {mark}" for mark in marks)
            last = lark.until(end.replace(NAME_SLOT, name))
            return f"({inner})* {last}" if marks else last


def _spaced(literal: str) -> str:
    """Returns a pattern for a literal whose white space may be other."""
    pieces = re.findall(r"\s+|\w+|[^\w\s]", literal)
    words = (re.escape(x) for x in pieces if not x.isspace())
    return r"[ \n\t]*".join(words)


def some_calls(
    lark: LarkWriter,
    notation: CallNotation,
    functions: Sequence[CallableFunction],
    most: int,
    written: str = "",
) -> str:
    """Returns the expression of one call or several, with all that surrounds them.

    Args:
        written: the part of the opening that already stands before.
    """
    first = f"{notation.opening}{notation.head}".removeprefix(written)
    more = ""
    if most > 1 and notation.between is not None:
        call = one_call(lark, notation, functions)
        more = f"({_literal(lark, notation.between, '')} {call}){{0,{most - 1}}}"
    begun = one_call(lark, notation, functions, first)
    return f"{begun} {more} {lark.text(notation.closing)}"


def _literal(lark: LarkWriter, text: str, name: str, key: str = "") -> str:
    """A literal with its slots filled."""
    text = text.replace(NAME_SLOT, name).replace(KEY_SLOT, key)
    pieces = _SLOT.split(text)
    return " ".join(
        lark.pattern(_PATTERNS[piece]) if piece in _PATTERNS else lark.text(piece)
        for piece in pieces
        if piece
    )


def _arguments(lark: LarkWriter, notation: CallNotation, shape: JsonShape) -> str:
    match notation.style:
        case "json" | "mlx_lm":
            return lark.shape(shape)
        case "tagged":
            fields = notation.fields
            assert fields is not None
            quotes = None if fields.quoted else ("", "")
            member = _Member(
                fields.before, fields.middle, fields.other_middle, fields.after, quotes
            )
            written = _members(lark, member, shape)
            return " ".join(text if needed else f"({text})?" for text, needed in written)
        case "relaxed":
            mark = notation.string_mark
            member = _Member("", ":", "", "", (mark, mark))
            return _separated(lark, "{", _members(lark, member, shape), ",", "}")
        case "keywords":
            member = _Member("", "=", "", "", None, python=True)
            return _separated(lark, "(", _members(lark, member, shape), ", ", ")")


def _input(lark: LarkWriter, notation: CallNotation, function: CallableFunction) -> str:
    """The arguments of a function whose only argument is a text in a grammar."""
    key, source = function.input_name, function.input_grammar
    escaped = True
    match notation.style:
        case "json" | "mlx_lm":
            begin, end = f'{{"{key}": "', '"}'
        case "keywords":
            begin, end = f'({key}="', '")'
        case "relaxed":
            begin, end = f"{{{key}:{notation.string_mark}", f"{notation.string_mark}}}"
            escaped = False
        case "tagged":
            fields = notation.fields
            assert fields is not None
            quote = '"' if fields.quoted else ""
            begin = f"{fields.before}{key}{fields.middle}{quote}"
            end = f"{quote}{fields.after.replace(KEY_SLOT, key)}"
            escaped = fields.quoted
    inner = lark.nested(json_escaped(source) if escaped else source)
    return f"{lark.text(begin)} {inner} {lark.text(end)}"


def _separated(
    lark: LarkWriter, begin: str, members: Sequence[tuple[str, bool]], gap: str, end: str
) -> str:
    """Required and optional members with a separator between those that are written."""
    later, first = "", ""
    for text, needed in reversed(members):
        alone = f"{text} {later}"
        first = alone if needed else f"({alone} | {first})" if first else f"({alone})?"
        follows = f"{lark.text(gap)} {text}"
        later = f"{follows} {later}" if needed else f"({follows})? {later}"
    return f"{lark.text(begin)} {first} {lark.text(end)}"


def _members(lark: LarkWriter, member: _Member, shape: JsonShape) -> list[tuple[str, bool]]:
    """The arguments in the schema's order, and whether each is required.

    Raises RequestError for a schema that does not list them.
    """
    schema = shape.schema
    unlisted = [key for key in _COMBINED if key in schema]
    if unlisted:
        raise _refuse(shape.where, f"this model's call notation has no place for {unlisted[0]!r}")
    listed, needed = schema.get("properties") or {}, schema.get("required") or []
    if not isinstance(listed, dict) or not isinstance(needed, list):
        raise _refuse(shape.where, "properties must be an object, and required a list")
    properties = cast("dict[str, Any]", listed)
    required = cast("list[Any]", needed)
    absent = [key for key in required if not isinstance(key, str) or key not in properties]
    if absent:
        raise _refuse(shape.where, f"the required {absent[0]!r} is not among the properties")
    out: list[tuple[str, bool]] = []
    for key, own in properties.items():
        if not key or any(character in key for character in "<>\n"):
            raise _refuse(shape.where, f"this model cannot write an argument named {key!r}")
        schema = cast("dict[str, Any]", own) if isinstance(own, dict) else {}
        is_string = schema.get("type") == "string"
        middle = member.middle if is_string else member.other_middle or member.middle
        begin = lark.text(f"{member.before}{key}{middle}")
        after = member.after.replace(KEY_SLOT, key)
        out.append((f"{begin} {_value(lark, member, after, shape, key, schema)}", key in required))
    return out


def _value(
    lark: LarkWriter,
    member: _Member,
    after: str,
    shape: JsonShape,
    key: str,
    schema: dict[str, Any],
) -> str:
    where = f"{shape.where}.properties.{key}"
    if schema.get("type") != "string" or member.quotes is None:
        if member.python and schema.get("type") == "boolean" and "enum" not in schema:
            return '("True" | "False")'
        shared = {name: shape.schema[name] for name in _SHARED if name in shape.schema}
        value = lark.shape(JsonShape({**shared, **schema}, where, shape.lenient))
        return f"{value} {lark.text(after)}"
    begin, end = member.quotes
    after = f"{end}{after}"
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if choices is not None:
        listed = cast("list[Any]", choices) if isinstance(choices, list) else []
        texts = tuple(choice for choice in listed if isinstance(choice, str) and choice)
        if not texts:
            raise _refuse(where, "its enum or const lists no text")
        return f"{lark.text(begin)} {lark.shape(ChoiceShape(texts, where))} {lark.text(after)}"
    pattern = bare_pattern(schema)
    if pattern is None and not shape.lenient:
        raise _refuse(where, "this model writes strings bare, which this pattern cannot hold")
    return f"{lark.text(begin)} {lark.until(after, pattern or '')}"


def bare_pattern(schema: Mapping[str, Any]) -> str | None:
    """Returns a regular expression for a string that is written bare.

    Empty when any text will do; None when it cannot be written. ``format`` is not checked.
    """
    least, most = (schema.get(key) for key in ("minLength", "maxLength"))
    pattern = schema.get("pattern")
    if not isinstance(pattern, str):
        if least is None and most is None:
            return ""
        return f"(.|\n){{{_count(least) or 0},{_count(most) or ''}}}"
    inner = pattern.removeprefix("^").removesuffix("$")
    limited = least is not None or most is not None
    if limited or inner.endswith("\\") or _stands_alone(inner):
        return None
    free = r"(.|\n)*"
    before, after = ("" if x else free for x in (pattern[:1] == "^", pattern[-1:] == "$"))
    return f"{before}({regex_to_lark(inner)}){after}"


def _stands_alone(pattern: str) -> bool:
    """Returns True when an expression means something else inside of a larger one."""
    rest = _CLASS.sub("", pattern)
    if _ANCHOR.search(rest.replace("|", "")):
        return True
    while (shorter := _GROUP.sub("", rest)) != rest:
        rest = shorter
    return "|" in rest


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value >= 0 else None


def _refuse(where: str, reason: str) -> RequestError:
    message = f"invalid {where!r}: {reason}"
    return RequestError(400, "structured_output_not_supported", message, where)
