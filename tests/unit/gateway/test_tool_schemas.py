"""Tools reach the model whatever their schemas are and whatever its template can render."""

from __future__ import annotations

import json
from typing import Any, TypeAlias, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.rendered_chat import RenderedChat, render_conversation
from pomona_gateway.text.template_traits import probe_template
from pomona_gateway.text.tool_schemas import tool_forms
from support.models.chat_templates import TEMPLATES, TYPED_TOOLS

USER = {"role": "user", "content": "Well?"}
NAMES = ("alpha", "beta", "gamma")
texts = st.sampled_from(["A size.", "", "Größe"])
Strategy: TypeAlias = st.SearchStrategy[Any]


def keyword(name: str, values: Strategy, **others: Any) -> Strategy:
    """Schemas with one keyword that takes the values, and others."""
    return values.map(lambda value: {name: value, **others})


leaves: Strategy = st.one_of(
    st.just({}),
    st.just(True),
    keyword("type", st.sampled_from(["string", "integer", "boolean", "array", "object"])),
    keyword("description", texts | st.none(), type="string"),
    keyword("type", st.sampled_from([["string", "null"], ["null"], ["integer", "string"]])),
    keyword("enum", st.sampled_from([["x", "y"], [1, None]])),
    keyword("$ref", st.sampled_from(["#/$defs/Node", "#/$defs/Missing"])),
    st.just({"const": "x"}),
)


def containers(inner: Strategy) -> Strategy:
    listed = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    return st.one_of(
        keyword("items", inner | listed, type="array"),
        keyword("anyOf", listed),
        keyword("oneOf", listed, description="One."),
        keyword("allOf", listed),
        keyword("properties", named, type="object", additionalProperties=False),
        keyword("additionalProperties", inner, type="object"),
    )


schemas = st.recursive(leaves, containers, max_leaves=5)
node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
parameters: Strategy = st.one_of(
    st.just({}),
    st.just({"type": "object"}),
    st.just({"type": "object", "properties": None, "required": None}),
    keyword(
        "properties",
        st.dictionaries(st.sampled_from(NAMES), schemas, min_size=1, max_size=3),
        type="object",
        **{"$defs": {"Node": node}},
    ),
)


def tool(schema: dict[str, Any], description: str | None = "Looks.") -> dict[str, Any]:
    described = {} if description is None else {"description": description}
    return {"type": "function", "function": {"name": "look_up", **described, "parameters": schema}}


def render(source: str, tools: list[dict[str, Any]]) -> RenderedChat:
    template = ChatTemplate(source, {})
    variables = {"messages": [USER], "tools": tools}
    return render_conversation(template, probe_template(template.render), variables)


def size(a: Any) -> dict[str, Any]:
    return tool({"type": "object", "properties": {"size": a}})


SOURCES = {**TYPED_TOOLS, "objects in tags": TEMPLATES["objects in tags"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=40, deadline=None)
@given(parameters, st.none() | texts)
def test_no_schema_is_refused_and_every_name_is_shown(
    name: str, schema: dict[str, Any], description: str | None
) -> None:
    text = render(SOURCES[name], [tool(schema, description)]).text
    named = cast("dict[str, Any]", schema.get("properties") or {})
    assert "Well?" in text
    assert all(word in text for word in ("look_up", *named))


@settings(max_examples=200, deadline=None)
@given(parameters)
def test_the_plain_form_has_one_type_everywhere_and_keeps_all_words(schema: dict[str, Any]) -> None:
    *_, plain = tool_forms([tool(schema)])
    [rewritten] = plain.tools

    def check(part: Any) -> None:
        assert isinstance(part["type"], str)
        assert isinstance(part["description"], str)
        assert not {"anyOf", "oneOf", "allOf", "$ref", "$defs"} & part.keys()
        for inner in part.get("properties", {}).values():
            check(inner)
        if part["type"] == "array":
            check(part["items"])

    check(rewritten["function"]["parameters"])
    json.dumps(plain.tools)


@pytest.mark.parametrize(
    ("schema", "lost"),
    [
        ({"type": ["string", "null"]}, "properties.size.type"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "properties.size.anyOf"),
        ({"type": "array", "items": {"type": ["integer", "null"]}}, "properties.size.items.type"),
        ({"$ref": "#/$defs/Missing"}, "properties.size.$ref"),
    ],
)
def test_what_is_simplified_is_named_and_stays_in_the_description(
    schema: dict[str, Any], lost: str
) -> None:
    rendered = render(TYPED_TOOLS["one type each"], [size(schema)])
    assert rendered.simplified == ((0, lost),)
    said = cast("dict[str, Any]", schema.get("items", schema))
    key = lost.rpartition(".")[2]
    assert json.dumps({key: said[key]}) in rendered.text


@pytest.mark.parametrize(
    "schema",
    [
        {"description": "A size."},
        {"type": "string", "description": None},
        {"enum": ["s", "m"]},
        {"$ref": "#/$defs/Size"},
    ],
)
def test_a_schema_that_is_only_completed_loses_nothing(schema: dict[str, Any]) -> None:
    given_tool = size(schema)
    given_tool["function"]["parameters"]["$defs"] = {"Size": {"type": "integer"}}
    complete = list(tool_forms([given_tool]))[1]
    assert complete.simplified == ()
    [rewritten] = complete.tools
    assert isinstance(rewritten["function"]["parameters"]["properties"]["size"]["description"], str)


def test_a_schema_that_refers_to_itself_ends() -> None:
    itself = {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}}
    schema = {"properties": {"a": {"$ref": "#/$defs/N"}}, "$defs": {"N": itself}}
    *_, plain = tool_forms([tool(schema)])
    assert plain.simplified == ((0, "properties.a.properties.n.$ref"),)


def test_references_that_multiply_stay_bounded() -> None:
    levels = {
        f"L{n}": {"properties": {x: {"$ref": f"#/$defs/L{n + 1}"} for x in "abcdefgh"}}
        for n in range(12)
    }
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/L0"}}, "$defs": levels}
    *_, plain = tool_forms([tool(schema)])
    assert len(json.dumps(plain.tools)) < 20_000_000


def test_tools_that_a_template_always_rejects_are_explained_in_a_system_message() -> None:
    rendered = render(TYPED_TOOLS["rejects all tools"], [size({"type": "string"})])
    assert '"size": {"type": "string"}' in rendered.text
    assert rendered.simplified == ()


def test_tools_shown_only_beside_a_system_message_get_an_empty_one() -> None:
    rendered = render(TYPED_TOOLS["beside a system message"], [size({"type": "string"})])
    assert "[system]" in rendered.text
    assert "You have these functions" not in rendered.text
