"""Tool calls from the whole text between a notation's marks: one function a notation.

Each returns the parts of the calls, or None when the text is none. ``call_stream`` reads most
calls as they come; these read the others, which models write in some other order or form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from pomona_gateway.parsers.events import Part, ToolCallArguments, ToolCallStart

Schemas: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The JSON Schema of each tool's parameters, by the tool's name."""
CallReader: TypeAlias = Callable[[str, Schemas], list[Part] | None]

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


def read_json_call(text: str, schemas: Schemas) -> list[Part] | None:
    """``{"name": ..., "arguments": {...}}``, or a list of those; Llama says "parameters"."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    entries = cast("list[Any]", content) if isinstance(content, list) else [content]
    calls = [_from_object(entry) for entry in entries]
    return [part for call in calls for part in call] if calls and all(calls) else None


def _from_object(content: Any) -> list[Part]:
    """Nothing when it is no call."""
    if not isinstance(content, dict):
        return []
    fields = cast("dict[str, Any]", content)
    name = fields.get("name")
    arguments = fields.get("arguments", fields.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return []
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return []
    return _call(name, arguments)


def _call(name: str, arguments: Any) -> list[Part]:
    return [
        ToolCallStart(name),
        ToolCallArguments(json.dumps(arguments, ensure_ascii=False), last=True),
    ]


def read_xml_call(text: str, schemas: Schemas) -> list[Part] | None:
    """``<function=NAME><parameter=KEY>VALUE</parameter></function>`` (Qwen3-Coder)."""
    calls: list[Part] = []
    for name, body in _FUNCTION.findall(text):
        pairs = [(key, _one_newline(value)) for key, value in _PARAMETER.findall(body)]
        calls += _typed(name.strip(), pairs, schemas)
    return calls or None


def read_glm_call(text: str, schemas: Schemas) -> list[Part] | None:
    """``NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`` (GLM 4.5 and later).

    A bare name calls a tool without arguments; a word that names no tool is text.
    """
    name, first_key, _ = text.partition("<arg_key>")
    name = name.strip()
    if not name or len(name.split()) > 1 or not (first_key or name in schemas):
        return None
    return _typed(name, _ARGUMENT.findall(text), schemas)


def read_mistral_calls(text: str, schemas: Schemas) -> list[Part] | None:
    """A JSON list, or ``NAME[ARGS]{...}`` one after the other."""
    listed = read_json_call(text, schemas)
    if listed is not None:
        return listed
    calls: list[Part] = []
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
        calls += _call(named[1], arguments)
    return calls or None


def read_deepseek_calls(text: str, schemas: Schemas) -> list[Part] | None:
    """The calls of DeepSeek V3 and R1, and those of V3.1, which have no code fence."""
    calls: list[Part] = []
    for name, arguments in _DEEPSEEK.findall(text):
        found = read_json_call(json.dumps({"name": name.strip(), "arguments": arguments}), schemas)
        if found is None:
            return None
        calls += found
    return calls or None


def _typed(name: str, pairs: Sequence[tuple[str, str]], schemas: Schemas) -> list[Part]:
    return _call(name, {key: typed_value(text, schemas, name, key) for key, text in pairs})


def typed_value(text: str, schemas: Schemas, name: str, key: str) -> Any:
    """A value that a notation writes as bare text, as the tool's schema has it."""
    properties = cast("Mapping[str, Any]", schemas.get(name, {}).get("properties") or {})
    schema = properties.get(key)
    kind = cast("Mapping[str, Any]", schema).get("type") if isinstance(schema, Mapping) else None
    if kind == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _one_newline(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n")
