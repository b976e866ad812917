"""JSON Schemas of increasing difficulty, equal in every run."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

WORDS = ("name", "size", "colour", "tags", "when", 'a "word"', "größe", "back\\slash")
FORMATS = ("date", "time", "date-time", "uuid", "email", "ipv4", "hostname")
PATTERNS = (r"^[A-Z]{2}-[0-9]{1,4}$", r"^(red|green|blue)+$", r"^\d{3}$", r"^[a-z]+_[a-z]+$")
RARE: tuple[dict[str, Any], ...] = (
    {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 2},
    {"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 9}]},
    {"oneOf": [{"type": "integer", "maximum": 9}, {"type": "number", "maximum": 9}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 30}]},
    {"type": "object", "patternProperties": {"^x[a-z]{0,3}$": {"type": "boolean"}},
     "maxProperties": 2, "additionalProperties": False},
    {"type": "array", "contains": {"const": 1}, "maxItems": 3, "items": {"type": "integer"}},
    {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}},
     "dependentRequired": {"a": ["b"]}, "additionalProperties": False},
    {"not": {"type": "string"}},
    {"type": "string", "format": "date", "pattern": "^20", "maxLength": 10},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "multipleOf": 0.125},
    {"enum": [{"a": [1, None]}, "\\\"\n", -0.5]},
)  # fmt: skip
"""Rarely used schemas. Grammars cannot express all."""
REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"type": "object", "properties": {"a": {"not": {"type": "null"}}}}, "/properties/a"),
    ({"if": {"type": "string"}, "then": {"maxLength": 3}}, ""),
    ({"type": "object", "properties": {"a": {"minimum": 5, "maximum": 1, "type": "integer"}},
      "required": ["a"]}, "/properties/a"),
    ({"items": {"type": "string", "pattern": "(a"}}, "/items"),
    ({"$ref": "#/$defs/gone"}, ""),
    ({"$ref": "http://example.com/schema.json"}, ""),
    ({"$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}},
      "required": ["next"]}}, "$ref": "#/$defs/node"}, "/$defs/node"),
    ({"anyOf": [{"type": "string"}, {"type": "strin"}]}, "/anyOf/1"),
    ({"enum": []}, ""),
)  # fmt: skip
"""Schemas that a grammar cannot express, and JSON pointers to the faulty part."""


def generated_schemas(count: int, seed: int = 6) -> list[dict[str, Any]]:
    """Returns schemas of increasing difficulty.

    They go from a single value to nested, referenced and combined values. The last ones have
    keywords that a grammar may not support.
    """
    draw = random.Random(seed)
    return [_object(draw, 1 + place * 5 // count, 1 + place * 3 // count) for place in range(count)]


def _object(draw: random.Random, level: int, width: int) -> dict[str, Any]:
    names = draw.sample(WORDS, draw.randint(1, width))
    properties = {name: _value(draw, level) for name in names}
    if level >= 3:
        properties["link"] = {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]}
    if level >= 4:
        properties["tree"] = {"$ref": "#/$defs/tree"}
    if level >= 5 and draw.random() < 0.5:
        properties["rare"] = draw.choice(RARE)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if draw.random() < 0.8],
        "additionalProperties": False,
    }
    if level >= 3:
        leaf = {"type": "object", "properties": {"id": _integer(draw)}, "required": ["id"]}
        schema["$defs"] = {"leaf": {**leaf, "additionalProperties": False}}
    if level >= 4:
        branch = {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}
        schema["$defs"]["tree"] = {
            "type": "object",
            "properties": {"left": branch, "value": _value(draw, 2)},
            "required": ["left", "value"],
            "additionalProperties": False,
        }
    return schema


def _value(draw: random.Random, level: int) -> dict[str, Any]:
    simple: list[Callable[[random.Random], dict[str, Any]]] = [
        _string, _integer, _enum, _boolean
    ]  # fmt: skip
    harder = [_number, _formatted, _patterned, _either, _const]
    choices = simple if level == 1 else simple + harder
    if level >= 3 and draw.random() < 0.5:
        return _nested(draw, level - 1)
    return draw.choice(choices)(draw)


def _nested(draw: random.Random, level: int) -> dict[str, Any]:
    kind = draw.randrange(4)
    inner = _value(draw, level)
    if kind == 0:
        return {"type": "array", "items": inner, "minItems": draw.randint(0, 2), "maxItems": 2}
    if kind == 1:
        pair = [inner, {"type": "boolean"}]
        return {"type": "array", "prefixItems": pair, "items": False, "minItems": 2}
    if kind == 2:
        return {"anyOf": [inner, {"type": "null"}]}
    return {
        "type": "object",
        "properties": {"inner": inner},
        "required": ["inner"],
        "additionalProperties": False,
    }


def _string(draw: random.Random) -> dict[str, Any]:
    least = draw.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + draw.randint(1, 8)}


def _boolean(draw: random.Random) -> dict[str, Any]:
    return {"type": "boolean"}


def _integer(draw: random.Random) -> dict[str, Any]:
    least = draw.randint(-50, 50)
    return {"type": "integer", "minimum": least, "maximum": least + draw.randint(0, 300)}


def _number(draw: random.Random) -> dict[str, Any]:
    least = draw.randint(-5, 5)
    return {"type": "number", "minimum": least, "exclusiveMaximum": least + 2, "multipleOf": 0.25}


def _const(draw: random.Random) -> dict[str, Any]:
    return {"const": {"fixed": [1, "x"]}}


def _enum(draw: random.Random) -> dict[str, Any]:
    return {"enum": draw.sample(["a", "b", 1, 2.5, None, True, 'say "hi"', "é\n"], 3)}


def _formatted(draw: random.Random) -> dict[str, Any]:
    return {"type": "string", "format": draw.choice(FORMATS), "maxLength": 40}


def _patterned(draw: random.Random) -> dict[str, Any]:
    return {"type": "string", "pattern": draw.choice(PATTERNS), "maxLength": 12}


def _either(draw: random.Random) -> dict[str, Any]:
    return {"anyOf": [_integer(draw), _string(draw), {"type": "null"}]}
