"""Errors in a JSON Schema: nesting depth, faulty parts, and parts that no value can complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

_SCHEMA_KEYS = (
    *("items", "additionalProperties", "not", "contains"),
    *("if", "then", "else", "propertyNames"),
)
_LIST_KEYS = ("prefixItems", "anyOf", "oneOf", "allOf")
_MAP_KEYS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DEFINITIONS = ("$defs", "definitions")
MAX_LEVEL = 200
"""Depth to which references are followed."""


def depth(value: Any) -> int:
    """Returns the nesting depth of objects and lists, without recursion."""
    deepest = 0
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        inner, level = pending.pop()
        deepest = max(deepest, level)
        if isinstance(inner, dict):
            children = list(cast("dict[str, Any]", inner).values())
        elif isinstance(inner, list):
            children = cast("list[Any]", inner)
        else:
            continue
        pending += [(child, level + 1) for child in children]
    return deepest


def faulty_part(
    schema: Mapping[str, Any], fault: Callable[[Mapping[str, Any]], str]
) -> tuple[str, str]:
    """Finds the smallest part of a schema that has a fault.

    Args:
        fault: returns the fault of a schema; empty for none.

    Returns:
        JSON pointer to the part, and its fault.
    """
    definitions = {name: schema[name] for name in _DEFINITIONS if name in schema}
    pointer, reason, part = "", fault(schema), schema
    while True:
        for step, inner in _parts(part):
            if inner_reason := fault({**definitions, **inner}):
                pointer, reason, part = pointer + step, inner_reason, inner
                break
        else:
            return pointer, reason


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields JSON pointers and subschemas, definitions first.

    A fault in a definition is thus reported there and not where the definition is used.
    """
    for key in sorted(schema, key=lambda key: key not in _DEFINITIONS):
        value = schema[key]
        if key in _SCHEMA_KEYS and isinstance(value, dict):
            yield f"/{key}", cast("Mapping[str, Any]", value)
        elif key in _LIST_KEYS and isinstance(value, list):
            for index, inner in enumerate(cast("list[Any]", value)):
                if isinstance(inner, dict):
                    yield f"/{key}/{index}", cast("Mapping[str, Any]", inner)
        elif key in _MAP_KEYS and isinstance(value, dict):
            for name, inner in cast("dict[str, Any]", value).items():
                if isinstance(inner, dict):
                    step = name.replace("~", "~0").replace("/", "~1")
                    yield f"/{key}/{step}", cast("Mapping[str, Any]", inner)


def endless_part(schema: Mapping[str, Any]) -> str:
    """Finds a part that must contain itself, so that no value is ever complete.

    Returns:
        JSON pointer to the part; empty for none.
    """
    finite: set[str] = set()

    def endless(part: Any, path: tuple[str, ...], level: int) -> str:
        if not isinstance(part, dict) or level > MAX_LEVEL:
            return ""
        for inner in _required_parts(cast("dict[str, Any]", part)):
            if found := endless(inner, path, level + 1):
                return found
        reference = cast("dict[str, Any]", part).get("$ref")
        if not isinstance(reference, str) or reference in finite:
            return ""
        if reference != "#" and not reference.startswith("#/"):
            return ""
        if reference in path:
            return reference.removeprefix("#") or "/"
        found = endless(_resolve(schema, reference), (*path, reference), level + 1)
        if not found:
            finite.add(reference)
        return found

    return endless(schema, ("#",), 0)


def _required_parts(part: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the subschemas that every value must match. The schema may be invalid."""
    properties, required = part.get("properties"), part.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        for name, inner in cast("dict[str, Any]", properties).items():
            if name in required:
                yield inner
    keys = ["allOf", "prefixItems"] if part.get("minItems") else ["allOf"]
    for key in keys:
        if isinstance(parts := part.get(key), list):
            yield from cast("list[Any]", parts)
    if part.get("minItems"):
        yield part.get("items")


def _resolve(schema: Mapping[str, Any], reference: str) -> Any:
    part: Any = schema
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        part = cast("dict[str, Any]", part).get(name) if isinstance(part, dict) else None
    return part
