"""Types the values that a notation writes as bare text, by the tool's schema."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any, cast

_LITERALS = {"true": True, "false": False, "null": None, "none": None}
_MAX_REFERENCES = 8


def property_schema(schema: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Returns the schema of one property with its references resolved; empty when unknown."""
    properties = schema.get("properties")
    own = cast("Mapping[str, Any]", properties).get(key) if isinstance(properties, Mapping) else {}
    if not isinstance(own, Mapping):
        return {}
    return _resolve(cast("Mapping[str, Any]", own), schema)


def _resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(_MAX_REFERENCES):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        part: Any = root
        for step in reference[2:].split("/"):
            part = cast("Mapping[str, Any]", part).get(step) if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping):
            return {}
        schema = cast("Mapping[str, Any]", part)
    return schema


def types_of(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """Returns the JSON types that a schema allows; empty when it does not say."""
    schema = _resolve(schema, root)
    found: set[str] = set()
    kind = schema.get("type")
    if isinstance(kind, str):
        found.add(kind)
    elif isinstance(kind, list):
        found |= {str(x) for x in cast("list[Any]", kind)}
    elif "enum" in schema or "const" in schema:
        listed = schema.get("enum", [schema.get("const")])
        if isinstance(listed, list):
            found |= {_type_name(value) for value in cast("list[Any]", listed)}
    elif depth < _MAX_REFERENCES:
        for word in ("anyOf", "oneOf", "allOf"):
            options = schema.get(word)
            for option in cast("list[Any]", options) if isinstance(options, list) else []:
                if isinstance(option, Mapping):
                    found |= types_of(cast("Mapping[str, Any]", option), root, depth + 1)
    if schema.get("nullable") is True and found:
        found.add("null")
    return found


def typed_value(
    text: str,
    schema: Mapping[str, Any],
    root: Mapping[str, Any] | None = None,
    is_string: bool | None = None,
) -> Any:
    """Returns the value that a bare text stands for.

    Args:
        schema: of the value; empty when unknown.
        root: the schema that holds the definitions.
        is_string: what the notation itself says of the type; None when it says nothing.
    """
    types = types_of(schema, root if root is not None else schema)
    if not types:
        if is_string is not None:
            return text if is_string else _parsed(text, text)
        value = _parsed(text, text)
        # Strings stand bare, so quotes belong to the text.
        return text if isinstance(value, str) else value
    if is_string is not None and not is_string:
        value = _parsed(text, text)
        if _type_name(value) in types or (isinstance(value, int) and "number" in types):
            return value
    for kind in ("null", "boolean", "integer", "number", "object", "array"):
        if kind in types:
            value = _as_type(text, kind, exact="string" in types)
            if value is not NotImplemented:
                return value
    if types != {"string"} and text.startswith('"'):
        # Where other types are allowed too, a grammar writes strings as JSON.
        value = _parsed(text, text)
        return value if isinstance(value, str) else text
    return text


def retyped(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """Returns a text as the type of its schema, where that allows no text. Other values stay."""
    types = types_of(schema, root)
    if not isinstance(value, str) or not types or "string" in types:
        return value
    return typed_value(value, schema, root)


def _as_type(text: str, kind: str, exact: bool) -> Any:
    """The text as this type; NotImplemented when it is not of it. ``exact``: the schema also
    allows strings, so only the usual way to write a value counts."""
    stripped = text.strip()
    if kind in ("null", "boolean"):
        value = _LITERALS.get(stripped.lower(), NotImplemented)
        if value is NotImplemented or (value is None) != (kind == "null"):
            return NotImplemented
        return value
    if kind == "array" and not stripped and not exact:
        return []
    value = _parsed(stripped, NotImplemented)
    if value is NotImplemented or isinstance(value, bool):
        return NotImplemented
    if kind == "integer" and isinstance(value, float) and value.is_integer() and not exact:
        return int(value)
    names = {"number": ("number", "integer")}.get(kind, (kind,))
    if _type_name(value) not in names:
        return NotImplemented
    usual = kind in ("object", "array") or json.dumps(value) == stripped
    return value if usual or not exact else NotImplemented


def _parsed(text: str, other: Any) -> Any:
    """The text as JSON, or else as a Python literal; ``other`` when it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            # What is not finite is not JSON.
            return json.loads(json.dumps(read(text.strip()), allow_nan=False))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return other


def _type_name(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
