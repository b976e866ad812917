"""Tool calls as grammars: whatever matches can be read by the notation's own reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

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

_SHAPED = ("pattern", "format", "minLength", "maxLength", "const", "enum")
_SHARED = ("$defs", "definitions")
_COMBINED = ("$ref", "anyOf", "oneOf", "allOf", "not", "if")
_PATTERNS = {INDEX_SLOT: "[0-9]{1,2}", ID_SLOT: "[a-zA-Z0-9]{9}"}
_SLOT = re.compile(f"([{INDEX_SLOT}{ID_SLOT}])")


@dataclass(frozen=True, slots=True)
class CallableFunction:
    """A function that a reply may call, and the shape of its arguments.

    Attributes:
        input_grammar: a Lark grammar of the only argument, whose name is ``input_name``; empty
            for none.
    """

    name: str
    arguments: JsonShape
    input_grammar: str = ""
    input_name: str = ""


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
        if function.input_grammar:
            arguments = _input(lark, notation, function)
        else:
            arguments = _arguments(lark, notation, function.arguments)
        end = _literal(lark, notation.tail, function.name)
        calls.append(f"{begin} {arguments} {end}")
    return "(" + " | ".join(calls) + ")"


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
        case "json":
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
        case "json":
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
    limited = [name for name in _SHAPED if name in schema]
    if limited and not shape.lenient:
        raise _refuse(where, f"this model writes strings bare, which {limited[0]!r} cannot hold")
    return f"{lark.text(begin)} {lark.until(after)}"


def _refuse(where: str, reason: str) -> RequestError:
    message = f"invalid {where!r}: {reason}"
    return RequestError(400, "structured_output_not_supported", message, where)
