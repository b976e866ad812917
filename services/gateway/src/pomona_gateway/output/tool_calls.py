"""How models write tool calls: one function a notation, from the text between its marks.

Each returns the calls, or None when the text is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from pomona_gateway.output.parts import Called

Schemas: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The JSON Schema of each tool's parameters, by the tool's name."""
CallReader: TypeAlias = Callable[[str, Schemas], list[Called] | None]

_FUNCTION = re.compile(r"<function=([^>\n]+)>(.*?)(?:</function>|$)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>(.*?)</parameter>", re.DOTALL)
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_NAMED = re.compile(
    r"\s*(?:\[TOOL_CALLS\])?\s*([\w.:-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*"
)
_DEEPSEEK = re.compile(
    "<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?(.*?)"
    "(?:<｜tool▁sep｜>|\\n```json\\n)(.*?)(?:\\n```)?<｜tool▁call▁end｜>",
    re.DOTALL,
)


def read_json_call(text: str, schemas: Schemas) -> list[Called] | None:
    """``{"name": ..., "arguments": {...}}``, or a list of those; Llama says "parameters"."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    entries = cast("list[Any]", content) if isinstance(content, list) else [content]
    calls = [call for entry in entries if (call := _from_object(entry)) is not None]
    return calls if calls and len(calls) == len(entries) else None


def _from_object(content: Any) -> Called | None:
    if not isinstance(content, dict):
        return None
    fields = cast("dict[str, Any]", content)
    name = fields.get("name")
    arguments = fields.get("arguments", fields.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return Called(name, json.dumps(arguments, ensure_ascii=False))


def read_xml_call(text: str, schemas: Schemas) -> list[Called] | None:
    """``<function=NAME><parameter=KEY>VALUE</parameter></function>`` (Qwen3-Coder)."""
    calls: list[Called] = []
    for name, body in _FUNCTION.findall(text):
        pairs = [(key, _one_newline(value)) for key, value in _PARAMETER.findall(body)]
        calls.append(_typed(name.strip(), pairs, schemas))
    return calls or None


def read_glm_call(text: str, schemas: Schemas) -> list[Called] | None:
    """``NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`` (GLM 4.5 and later)."""
    name = text.split("<arg_key>", 1)[0].strip()
    if not name or len(name.split()) > 1:
        return None
    return [_typed(name, _ARGUMENT.findall(text), schemas)]


def read_mistral_calls(text: str, schemas: Schemas) -> list[Called] | None:
    """A JSON list, or ``NAME[ARGS]{...}`` one after the other."""
    listed = read_json_call(text, schemas)
    if listed is not None:
        return listed
    calls: list[Called] = []
    at = 0
    while text[at:].strip():
        named = _NAMED.match(text, at)
        if named is None:
            return None
        try:
            arguments, at = json.JSONDecoder().raw_decode(text, named.end())
        except ValueError:
            return None
        if not isinstance(arguments, dict):
            return None
        calls.append(Called(named[1], json.dumps(arguments, ensure_ascii=False)))
    return calls or None


def read_deepseek_calls(text: str, schemas: Schemas) -> list[Called] | None:
    """The calls of DeepSeek V3 and R1, and those of V3.1, which have no code fence."""
    calls: list[Called] = []
    for name, arguments in _DEEPSEEK.findall(text):
        found = read_json_call(json.dumps({"name": name.strip(), "arguments": arguments}), schemas)
        if found is None:
            return None
        calls += found
    return calls or None


def _typed(name: str, pairs: Sequence[tuple[str, str]], schemas: Schemas) -> Called:
    """Values that a notation writes as bare text, as the tool's schema has them."""
    schema = schemas.get(name, {})
    properties = cast("Mapping[str, Any]", schema.get("properties") or {})
    arguments = {key: _value(text, properties.get(key)) for key, text in pairs}
    return Called(name, json.dumps(arguments, ensure_ascii=False))


def _value(text: str, schema: Any) -> Any:
    kind = cast("Mapping[str, Any]", schema).get("type") if isinstance(schema, Mapping) else None
    if kind == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _one_newline(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n")
