"""Rewrites JSON Schemas to what a grammar can express, and lists the dropped parts.

Handles what pydantic, zod and msgspec generate. Other keywords that llguidance does not support
stay, so that compiling the grammar reports them. It also bounds values that a model may otherwise
write without end: the digits of numbers, and by setting strings and arrays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

FORMATS = frozenset(
    {
        "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
    }
)  # fmt: skip
"""Formats that llguidance knows. JSON Schema says that others have no effect."""
MAX_INTEGER = 9223372036854774784
"""Largest integer below 2**63 that is exact as a double, which llguidance computes with."""
MAX_NUMBER = 1e15
SMALLEST_STEP = 1e-9
"""Numbers have at most nine decimals, the most that llguidance's ``multipleOf`` has."""

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems")
_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")
_LOOKS = re.compile(r"\(\?(?:=|!|<=|<!)|\\[1-9]")
"""Look-around and back-references, which no grammar has."""
_LIMITED = ("maxLength", "pattern", "format", "enum", "const")


@dataclass(frozen=True, slots=True)
class SchemaLimits:
    """Limits of values whose schema has none; 0 for no limit.

    Attributes:
        string: maximum characters of a string.
        items: maximum items of an array.
    """

    string: int = 0
    items: int = 0


NO_LIMITS = SchemaLimits()


def supported_schema(
    schema: Mapping[str, Any], limits: SchemaLimits = NO_LIMITS
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns a schema that a grammar can express, and the paths of unchecked parts."""
    rewriter = _Rewriter(limits)
    return rewriter.rewrite(schema, ""), tuple(rewriter.dropped)


class _Rewriter:
    def __init__(self, limits: SchemaLimits) -> None:
        self._limits = limits
        self.dropped: list[str] = []

    def rewrite(self, schema: Mapping[str, Any], path: str) -> dict[str, Any]:
        out = dict(schema)
        self._rewrite_inner(out, path)
        self._strings(out, path)
        self._numbers(out)
        self._arrays(out, path)
        self._objects(out, path)
        if "oneOf" in out:
            # A grammar cannot exclude a value that several alternatives allow.
            self._drop_one_of(out, path)
        return out

    def _any(self, part: Any, path: str) -> Any:
        if not isinstance(part, dict):
            return part
        schema = cast("dict[str, Any]", part)
        return False if schema.get("not") == {} else self.rewrite(schema, path)

    def _rewrite_inner(self, out: dict[str, Any], path: str) -> None:
        for key in _MAPS:
            inner = out.get(key)
            if isinstance(inner, dict):
                members = cast("dict[str, Any]", inner)
                out[key] = {
                    name: self._any(part, f"{path}.{key}.{name}") for name, part in members.items()
                }
        for key in _LISTS:
            inner = out.get(key)
            if isinstance(inner, list):
                parts = cast("list[Any]", inner)
                out[key] = [self._any(x, f"{path}.{key}[{n}]") for n, x in enumerate(parts)]
        for key in _SINGLE:
            if key in out:
                out[key] = self._any(out[key], f"{path}.{key}")

    def _strings(self, out: dict[str, Any], path: str) -> None:
        if isinstance(out.get("format"), str) and out["format"] not in FORMATS:
            del out["format"]
        pattern = out.get("pattern")
        if isinstance(pattern, str) and _LOOKS.search(pattern):
            del out["pattern"]
            self.dropped.append(f"{path}.pattern")
        if self._limits.string and "string" in _types(out) and not any(x in out for x in _LIMITED):
            out["maxLength"] = max(self._limits.string, _number(out.get("minLength")))

    def _numbers(self, out: dict[str, Any]) -> None:
        types = _types(out)
        if not types & {"integer", "number"} or "enum" in out or "const" in out:
            return
        for key in _LOWER:
            if _is_number(out.get(key)):
                out[key] = max(out[key], -MAX_INTEGER)
        for key in _UPPER:
            if _is_number(out.get(key)):
                out[key] = min(out[key], MAX_INTEGER)
        whole = "number" not in types
        limit = MAX_INTEGER if whole else MAX_NUMBER
        low = [out[x] for x in _LOWER if _is_number(out.get(x))]
        high = [out[x] for x in _UPPER if _is_number(out.get(x))]
        if not low:
            out["minimum"] = min([-limit, *(2 * x for x in high)])
        if not high:
            out["maximum"] = max([limit, *(2 * x for x in low)])
        if not whole and "multipleOf" not in out:
            out["multipleOf"] = SMALLEST_STEP

    def _arrays(self, out: dict[str, Any], path: str) -> None:
        if out.pop("uniqueItems", None) is True:
            self.dropped.append(f"{path}.uniqueItems")
        if self._limits.items and "array" in _types(out) and "maxItems" not in out:
            out["maxItems"] = max(self._limits.items, _number(out.get("minItems")))

    def _objects(self, out: dict[str, Any], path: str) -> None:
        """Writes ``propertyNames`` as properties, where they say the same."""
        names = out.get("propertyNames")
        if not isinstance(names, dict):
            return
        rules = cast("dict[str, Any]", names)
        plain = not any(key in out for key in ("properties", "patternProperties", "required"))
        value = out.get("additionalProperties", True)
        listed = rules.get("enum", [rules["const"]] if "const" in rules else None)
        pattern = rules.get("pattern")
        del out["propertyNames"]
        if isinstance(listed, list) and plain:
            own = cast("list[Any]", listed)
            out["properties"] = {name: value for name in own if isinstance(name, str)}
            out["additionalProperties"] = False
        elif isinstance(pattern, str) and plain and not _LOOKS.search(pattern):
            out["patternProperties"] = {pattern: value}
            out["additionalProperties"] = False
        elif rules.keys() - {"type", "title", "description", "$comment"}:
            self.dropped.append(f"{path}.propertyNames")

    def _drop_one_of(self, out: dict[str, Any], path: str) -> None:
        parts = cast("list[Any]", out["oneOf"]) if isinstance(out["oneOf"], list) else []
        kinds = [_types(cast("dict[str, Any]", x)) for x in parts if isinstance(x, dict)]
        flat = [kind for own in kinds for kind in own]
        disjoint = len(kinds) == len(parts) == len([x for x in kinds if x])
        exclusive = disjoint and len(flat) == len(set(flat)) and {"integer", "number"} - set(flat)
        if exclusive or "anyOf" in out:
            return
        if "discriminator" not in out and not _told_by_constant(parts):
            self.dropped.append(f"{path}.oneOf")
        out["anyOf"] = out.pop("oneOf")


def _told_by_constant(parts: list[Any]) -> bool:
    """Returns True when objects have a property with a different constant in each."""
    constants: list[set[tuple[str, Any]]] = []
    for part in parts:
        properties = cast("dict[str, Any]", part).get("properties") if isinstance(part, dict) else 0
        if not isinstance(properties, dict):
            return False
        own = cast("dict[str, Any]", properties)
        found = {
            (name, str(x["const"]))
            for name, x in own.items()
            if isinstance(x, dict) and "const" in x
        }
        constants.append(found)
    names = [{name for name, _ in own} for own in constants]
    shared = set[str].intersection(*names) if names else set[str]()
    return any(
        len({value for own in constants for key, value in own if key == name}) == len(parts)
        for name in shared
    )


def _types(schema: Mapping[str, Any]) -> set[str]:
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    return {str(x) for x in cast("list[Any]", kind)} if isinstance(kind, list) else set()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> int:
    return int(value) if _is_number(value) else 0
