"""Tool calls as grammars: whatever matches can be read by the notation's own reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from pomona.errors import RequestError
from pomona_gateway.grammar.lark import LarkWriter
from pomona_gateway.grammar.shapes import ChoiceShape, JsonShape
from pomona_gateway.parsers.notations import CallNotation, FieldNotation

MAX_CALLS = 16
"""Most calls in one constrained reply, so that a model which goes on for ever is stopped."""

_SHAPED = ("pattern", "format", "minLength", "maxLength", "const", "enum")
_SHARED = ("$defs", "definitions")
_COMBINED = ("$ref", "anyOf", "oneOf", "allOf", "not", "if")


@dataclass(frozen=True, slots=True)
class CallableFunction:
    """A function that a reply may call, and the shape of its arguments."""

    name: str
    arguments: JsonShape


def one_call(
    lark: LarkWriter, notation: CallNotation, functions: Sequence[CallableFunction]
) -> str:
    """A call of one of the functions, without opening and closing."""
    calls: list[str] = []
    for function in functions:
        head = lark.text(f"{notation.head}{function.name}{notation.middle}")
        if notation.fields is None:
            arguments = lark.shape(function.arguments)
        else:
            arguments = _fields(lark, notation.fields, function.arguments)
        calls.append(f"{head} {arguments} {lark.text(notation.tail)}")
    return "(" + " | ".join(calls) + ")"


def some_calls(
    lark: LarkWriter, notation: CallNotation, functions: Sequence[CallableFunction], most: int
) -> str:
    """One call or several, with all that surrounds them but the opening."""
    call = one_call(lark, notation, functions)
    more = ""
    if most > 1 and notation.between is not None:
        more = f"({lark.text(notation.between)} {call}){{0,{most - 1}}}"
    return f"{call} {more} {lark.text(notation.closing)}"


def _fields(lark: LarkWriter, notation: FieldNotation, shape: JsonShape) -> str:
    """Required and optional arguments in the schema's order.

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
    out: list[str] = []
    for key, own in properties.items():
        if not key or any(character in key for character in "<>\n"):
            raise _refuse(shape.where, f"this model cannot write an argument named {key!r}")
        begin = lark.text(f"{notation.before}{key}{notation.middle}")
        field = f"{begin} {_value(lark, notation, shape, key, own)}"
        out.append(field if key in required else f"({field})?")
    return " ".join(out)


def _value(lark: LarkWriter, notation: FieldNotation, shape: JsonShape, key: str, own: Any) -> str:
    where = f"{shape.where}.properties.{key}"
    schema = cast("dict[str, Any]", own) if isinstance(own, dict) else {}
    if schema.get("type") != "string":
        shared = {name: shape.schema[name] for name in _SHARED if name in shape.schema}
        value = lark.shape(JsonShape({**shared, **schema}, where, shape.lenient))
        return f"{value} {lark.text(notation.after)}"
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if choices is not None:
        listed = cast("list[Any]", choices) if isinstance(choices, list) else []
        texts = tuple(choice for choice in listed if isinstance(choice, str) and choice)
        if not texts:
            raise _refuse(where, "its enum or const lists no text")
        return f"{lark.shape(ChoiceShape(texts, where))} {lark.text(notation.after)}"
    limited = [name for name in _SHAPED if name in schema]
    if limited and not shape.lenient:
        raise _refuse(where, f"this model writes strings bare, which {limited[0]!r} cannot hold")
    return lark.until(notation.after)


def _refuse(where: str, reason: str) -> RequestError:
    message = f"invalid {where!r}: {reason}"
    return RequestError(400, "structured_output_not_supported", message, where)
