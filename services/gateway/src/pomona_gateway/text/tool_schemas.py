"""Simpler forms of tool definitions, for chat templates that cannot render the given ones. Pure.

Templates that write schemas as type declarations fail at whatever their author did not think of:
a list of types, ``anyOf``, ``$ref``, a missing type, a description that is null. Two forms help:
a *complete* one, which says the same in full, and a *plain* one, in which each schema has one
type. What the plain form leaves out is added to the description as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

Schema: TypeAlias = dict[str, Any]
Tool: TypeAlias = Mapping[str, Any]

SimplifiedPart: TypeAlias = tuple[int, str]
"""Index of a tool, and the path of a part of its parameters, such as ``properties.size.anyOf``."""

MAX_DEPTH = 40
"""Depth of a schema below which its parts become empty; a reference to itself ends there, too."""
MAX_PARTS = 20_000
"""Maximum number of schemas in all tools; references may multiply them."""
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_ONE = frozenset(
    {
        *("items", "additionalProperties", "not", "if", "then", "else", "contains"),
        *("propertyNames", "unevaluatedProperties", "unevaluatedItems"),
    }
)
_VALUES = frozenset({"default", "const", "enum", "examples", "example"})
_DEFINITIONS = ("$defs", "definitions")
_TEXTS = ("description", "title")
_ANY = {"type": "string", "description": ""}
"""Stands for a schema that allows everything, where each schema needs a type."""
_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


@dataclass(frozen=True, slots=True)
class ToolForm:
    """Tools in one form.

    Attributes:
        simplified: what the form says otherwise than the client.
    """

    tools: Sequence[Tool]
    simplified: tuple[SimplifiedPart, ...] = ()


def tool_forms(tools: Sequence[Tool]) -> Iterator[ToolForm]:
    """Yields the given tools, the complete form, and the plain one."""
    yield ToolForm(tools)
    if tools:
        yield _rewritten(tools, plain=False)
        yield _rewritten(tools, plain=True)


def tools_shown(text: str, tools: Sequence[Tool]) -> bool:
    """Returns whether a text has the name of each tool and of each of its arguments."""
    return all(
        name in text or json.dumps(name)[1:-1] in text
        for tool in tools
        for name in (tool["function"]["name"], *_argument_names(tool["function"]))
    )


def _argument_names(function: Mapping[str, Any]) -> list[str]:
    parameters = function.get("parameters")
    listed = cast("Schema", parameters).get("properties") if isinstance(parameters, dict) else None
    return [str(name) for name in cast("Schema", listed)] if isinstance(listed, dict) else []


def _rewritten(tools: Sequence[Tool], plain: bool) -> ToolForm:
    out: list[Tool] = []
    simplified: list[SimplifiedPart] = []
    budget = [MAX_PARTS]
    for index, tool in enumerate(tools):
        function = dict(cast("Mapping[str, Any]", tool["function"]))
        given = function.get("parameters")
        root = cast("Schema", given) if isinstance(given, dict) else {}
        writer = _Writer(root, plain, budget)
        parameters = writer.schema(root, "", ())
        parameters = {**parameters, "type": "object"}
        parameters.setdefault("properties", {})
        function["description"] = str(function.get("description") or "")
        function["parameters"] = parameters
        out.append({**tool, "function": function})
        simplified += [(index, path) for path in writer.simplified]
    return ToolForm(out, tuple(dict.fromkeys(simplified)))


@dataclass(slots=True)
class _Writer:
    """Rewrites the schema of one tool.

    Attributes:
        root: the whole schema, which has the definitions.
        budget: number of schemas that may still be written, shared by all tools.
    """

    root: Schema
    plain: bool
    budget: list[int]
    simplified: list[str] = field(default_factory=list[str])

    def schema(self, given: Any, path: str, open_references: tuple[str, ...]) -> Schema:
        self.budget[0] -= 1
        if not isinstance(given, dict):  # true, false, or no schema at all
            if given is not True and given is not None:
                self.simplified.append(path)
            return dict(_ANY) if self.plain else {}
        own, open_references = self._resolved(cast("Schema", given), path, open_references)
        if path.count(".") > MAX_DEPTH or self.budget[0] < 0:
            self.simplified.append(path)
            own = {key: own[key] for key in ("type", "description") if key in own}
        out: Schema = {}
        for key, value in own.items():
            at = f"{path}.{key}" if path else key
            if key in _DEFINITIONS or (value is None and key not in _VALUES):
                continue
            out[key] = self._keyword(key, value, at, open_references)
        for key in _TEXTS:
            if key in out and not isinstance(out[key], str):
                out[key] = json.dumps(out[key], ensure_ascii=False)
        if self.plain:
            self._reduce(out, own, path)
        elif "type" not in out and (inferred := _inferred(out)):
            out = {"type": inferred, **out}
        if out.get("type") == "array" and not isinstance(out.get("items"), dict):
            out["items"] = dict(_ANY) if self.plain else {}
        if out.get("type") == "object" and path and not isinstance(out.get("properties"), dict):
            out["properties"] = {}
        return out

    def _keyword(self, key: str, value: Any, path: str, references: tuple[str, ...]) -> Any:
        if key in _MAPS and isinstance(value, dict):
            parts = cast("Schema", value)
            return {
                str(name): {"description": "", **self.schema(part, f"{path}.{name}", references)}
                for name, part in parts.items()
            }
        if (key in _LISTS or key == "items") and isinstance(value, list):
            return [
                self.schema(part, f"{path}[{index}]", references)
                for index, part in enumerate(cast("list[Any]", value))
            ]
        if key in _ONE and isinstance(value, dict):
            return self.schema(value, path, references)
        return value

    def _resolved(
        self, schema: Schema, path: str, references: tuple[str, ...]
    ) -> tuple[Schema, tuple[str, ...]]:
        """Puts the definition in the place of a reference, unless it refers to itself."""
        while isinstance(reference := schema.get("$ref"), str):
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            found = None if reference in references else _target(self.root, reference)
            if found is None:
                self.simplified.append(f"{path}.$ref" if path else "$ref")
                return {**rest, "description": _noted(rest, {"$ref": reference})}, references
            references = (*references, reference)
            schema = {**found, **rest}
        return schema, references

    def _reduce(self, out: Schema, own: Schema, path: str) -> None:
        """Leaves one type, and notes the others in the description."""
        lost: Schema = {}
        for key in ("allOf", "anyOf", "oneOf"):
            options = out.pop(key, None)
            if not isinstance(options, list):
                continue
            parts = [cast("Schema", x) for x in cast("list[Any]", options) if isinstance(x, dict)]
            others = [part for part in parts if part.get("type") != "null"]
            if key == "allOf":
                for part in others:
                    _merge(out, part)
                continue
            if others:
                _merge(out, others[0])
            if len(parts) > 1:
                lost[key] = own[key]
        kinds = out.get("type")
        if isinstance(kinds, list):
            named = [x for x in cast("list[Any]", kinds) if isinstance(x, str) and x != "null"]
            out["type"] = named[0] if named else "string"
            if len(cast("list[Any]", kinds)) > 1:
                lost["type"] = kinds
        elif not isinstance(kinds, str):
            out["type"] = _inferred(out) or "string"
        items = out.get("items", out.get("prefixItems"))
        if isinstance(items, list):
            parts = cast("list[Any]", items)
            lost["items"] = own.get("items", own.get("prefixItems"))
            out["items"] = parts[0] if parts else dict(_ANY)
            out.pop("prefixItems", None)
        if out["type"] == "object" and not isinstance(out.get("additionalProperties"), dict):
            # Some templates write every object as a mapping of strings to one type.
            out["additionalProperties"] = dict(_ANY)
        self.simplified += [f"{path}.{key}" if path else key for key in lost]
        out["description"] = _noted(out, lost)


def _target(root: Schema, reference: str) -> Schema | None:
    """Returns the part of the schema that a reference like ``#/$defs/Size`` names."""
    if not reference.startswith("#"):
        return None
    part: Any = root
    for name in reference[1:].split("/")[1:]:
        key = name.replace("~1", "/").replace("~0", "~")
        part = cast("Schema", part).get(key) if isinstance(part, dict) else None
    return cast("Schema", part) if isinstance(part, dict) else None


def _merge(out: Schema, other: Schema) -> None:
    """Adds the keywords of another schema to one; its own ones win."""
    for key, value in other.items():
        if key == "properties" and isinstance(out.get(key), dict):
            out[key] = {**value, **out[key]}
        elif key == "required" and isinstance(out.get(key), list):
            out[key] = list(dict.fromkeys([*out[key], *value]))
        elif not out.get(key):
            out[key] = value


def _inferred(schema: Schema) -> str:
    """Returns the type that a schema without one implies; empty for none."""
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    kinds = {
        next((name for kind, name in _TYPES if isinstance(value, kind)), "")
        for value in (cast("list[Any]", values) if isinstance(values, list) else [])
        if value is not None
    }
    return kinds.pop() if len(kinds) == 1 else ""


def _noted(schema: Schema, lost: Schema) -> str:
    """Returns the description of a schema with what else the client said, as JSON."""
    text = str(schema.get("description") or "")
    if not lost:
        return text
    return f"{text} {json.dumps(lost, ensure_ascii=False)}".lstrip()
