"""What is wrong with a JSON Schema, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

_ONE = ("items", "additionalProperties", "not", "contains", "if", "then", "else", "propertyNames")
_LIST = ("prefixItems", "anyOf", "oneOf", "allOf")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
MAX_LEVEL = 200
"""How far references are followed to find one that has no end."""
_SHARED = ("$defs", "definitions")


def depth(value: Any) -> int:
    """How deep objects and lists are nested. It does not recurse."""
    deepest = 0
    open_: list[tuple[Any, int]] = [(value, 1)]
    while open_:
        inner, level = open_.pop()
        deepest = max(deepest, level)
        if isinstance(inner, dict):
            children = list(cast("dict[str, Any]", inner).values())
        elif isinstance(inner, list):
            children = cast("list[Any]", inner)
        else:
            continue
        open_ += [(child, level + 1) for child in children]
    return deepest


def faulty_part(
    schema: Mapping[str, Any], fault: Callable[[Mapping[str, Any]], str]
) -> tuple[str, str]:
    """The smallest part of a schema that has a fault, as a JSON pointer, and the fault.

    Args:
        fault: what is wrong with a schema; empty for nothing.
    """
    shared = {name: schema[name] for name in _SHARED if name in schema}
    pointer, found, part = "", fault(schema), schema
    while True:
        for step, inner in _parts(part):
            if reason := fault({**shared, **inner}):
                pointer, found, part = pointer + step, reason, inner
                break
        else:
            return pointer, found


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Definitions first: what is wrong there is told there, not where it is used."""
    for key in sorted(schema, key=lambda key: key not in _SHARED):
        value = schema[key]
        if key in _ONE and isinstance(value, dict):
            yield f"/{key}", cast("Mapping[str, Any]", value)
        elif key in _LIST and isinstance(value, list):
            for place, inner in enumerate(cast("list[Any]", value)):
                if isinstance(inner, dict):
                    yield f"/{key}/{place}", cast("Mapping[str, Any]", inner)
        elif key in _NAMED and isinstance(value, dict):
            for name, inner in cast("dict[str, Any]", value).items():
                if isinstance(inner, dict):
                    step = name.replace("~", "~0").replace("/", "~1")
                    yield f"/{key}/{step}", cast("Mapping[str, Any]", inner)


def endless_part(schema: Mapping[str, Any]) -> str:
    """A part that must hold itself, so that no value is ever complete, as a JSON pointer;
    empty for none."""
    ends: set[str] = set()

    def endless(part: Any, path: tuple[str, ...], level: int) -> str:
        if not isinstance(part, dict) or level > MAX_LEVEL:
            return ""
        for inner in _needed(cast("dict[str, Any]", part)):
            if found := endless(inner, path, level + 1):
                return found
        reference = cast("dict[str, Any]", part).get("$ref")
        if not isinstance(reference, str) or reference in ends:
            return ""
        if reference != "#" and not reference.startswith("#/"):
            return ""
        if reference in path:
            return reference.removeprefix("#") or "/"
        found = endless(_resolve(schema, reference), (*path, reference), level + 1)
        if not found:
            ends.add(reference)
        return found

    return endless(schema, ("#",), 0)


def _needed(part: Mapping[str, Any]) -> Iterator[Any]:
    """The parts without which no value matches. A schema may be wrong; it is told later."""
    properties, required = part.get("properties"), part.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        for name, inner in cast("dict[str, Any]", properties).items():
            if name in required:
                yield inner
    lists = ["allOf", "prefixItems"] if part.get("minItems") else ["allOf"]
    for key in lists:
        if isinstance(listed := part.get(key), list):
            yield from cast("list[Any]", listed)
    if part.get("minItems"):
        yield part.get("items")


def _resolve(schema: Mapping[str, Any], reference: str) -> Any:
    part: Any = schema
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        part = cast("dict[str, Any]", part).get(name) if isinstance(part, dict) else None
    return part
