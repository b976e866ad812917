"""Schemas are rewritten to what a grammar can express, and what is not checked is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from pomona_gateway.grammar import JsonShape, SchemaLimits, supported_schema
from pomona_gateway.grammar.json_schema import json_grammar
from pomona_gateway.grammar.supported_schema import MAX_INTEGER

TOKENIZER = LLTokenizer("byte")


def accepts(schema: dict[str, Any], value: str) -> bool:
    matcher = LLMatcher(TOKENIZER, json_grammar(JsonShape(schema, "")), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    size = len(value.encode())
    return matcher.try_consume_tokens(TOKENIZER.tokenize_str(value)) == size and (
        matcher.is_accepting()
    )


def of(**own: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": own}, "required": ["a"]}


A, B = ({"type": "object", "properties": {"k": {"const": x}}, "required": ["k"]} for x in "ab")
EMAIL = r"^(?!\.)([A-Za-z]*)@([a-z]+\.)+[a-z]{2,}$"


@pytest.mark.parametrize(
    ("schema", "value", "unchecked"),
    [
        (of(type="string", format="zip-code"), '{"a": "x"}', ()),
        (of(type="string", format="int64"), '{"a": "x"}', ()),
        (of(type="array", uniqueItems=True), '{"a": [1, 1]}', (".properties.a.uniqueItems",)),
        (of(type="integer", minimum=-(2**63), maximum=2**63 - 1), '{"a": -5}', ()),
        (of(type="number", exclusiveMinimum=0, maximum=1e300), '{"a": 2.5}', ()),
        (of(type="string", pattern=EMAIL), '{"a": "x"}', (".properties.a.pattern",)),
        (of(oneOf=[{"type": "string"}, {"type": "null"}]), '{"a": null}', ()),
        (of(oneOf=[{"type": "string"}, {"enum": ["b"]}]), '{"a": "b"}', (".properties.a.oneOf",)),
        ({"oneOf": [A, B]}, '{"k": "b"}', ()),
        (of(anyOf=[{"type": "string"}, {"not": {}}]), '{"a": "x"}', ()),
        ({"type": "object", "propertyNames": {"type": "string"}}, '{"a": 1}', ()),
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, '{"b": 1}', ()),
        ({"type": "object", "propertyNames": {"pattern": "^x"}}, '{"xy": 1}', ()),
        (
            {"type": "object", "propertyNames": {"maxLength": 3}},
            '{"abcd": 1}',
            (".propertyNames",),
        ),
    ],
)
def test_what_libraries_generate_is_expressed(
    schema: dict[str, Any], value: str, unchecked: tuple[str, ...]
) -> None:
    written, found = supported_schema(schema)
    assert found == unchecked
    assert accepts(written, value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, '{"c": 1}'),
        ({"type": "object", "propertyNames": {"pattern": "^x"}}, '{"y": 1}'),
        (of(type="integer", minimum=0, maximum=2**63), '{"a": -1}'),
    ],
)
def test_what_can_be_checked_is(schema: dict[str, Any], value: str) -> None:
    assert not accepts(supported_schema(schema)[0], value)


@pytest.mark.parametrize(
    ("schema", "longest", "too_long"),
    [
        ({"type": "integer"}, str(MAX_INTEGER), "1" * 20),
        ({"type": "integer", "minimum": 0}, str(MAX_INTEGER), "1" * 20),
        ({"type": ["integer", "null"]}, str(-MAX_INTEGER), "1" * 20),
        ({"type": "number"}, "123456789012345.123456789", "0." + "1" * 10),
        ({"type": "number", "minimum": 0, "maximum": 1}, "0.123456789", "0." + "1" * 10),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "1.5", "1" * 20),
        ({"allOf": [{"type": "number"}, {"multipleOf": 0.01}]}, "1.25", "1" * 20),
    ],
)
def test_numbers_end(schema: dict[str, Any], longest: str, too_long: str) -> None:
    written, unchecked = supported_schema(schema)
    assert unchecked == ()
    assert accepts(written, longest)
    assert not accepts(written, too_long)


def test_strings_and_arrays_have_the_limits_that_are_set() -> None:
    schema = of(type="array", items={"type": "string"})
    written, _ = supported_schema(schema, SchemaLimits(string=3, items=2))
    assert accepts(written, '{"a": ["abc", "abc"]}')
    assert not accepts(written, '{"a": ["abcd"]}')
    assert not accepts(written, '{"a": ["a", "b", "c"]}')
    own = of(type="string", maxLength=9)
    assert accepts(supported_schema(own, SchemaLimits(string=3))[0], '{"a": "abcdefghi"}')


def test_a_schema_is_not_changed_in_place() -> None:
    schema = of(type="array", items={"type": "integer"}, uniqueItems=True)
    before = json.dumps(schema)
    supported_schema(schema)
    assert json.dumps(schema) == before
