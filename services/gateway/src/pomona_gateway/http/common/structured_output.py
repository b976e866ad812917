"""Parameters that constrain a reply to a JSON Schema, a regular expression or a choice."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field, StringConstraints
from pydantic_core import from_json

from pomona.errors import RequestError
from pomona_gateway.grammar import ChoiceShape, GrammarShape, JsonShape, RegexShape, Shape
from pomona_gateway.http.request_body import Body, Rule, RuledBody, present_and

MAX_CHOICES = 1024

Schema = dict[str, Any]
ChoiceText = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Choices = Annotated[list[ChoiceText], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES)]
FormatText = Annotated[str, StringConstraints(min_length=1, max_length=65536)]
FormatName = Annotated[str, StringConstraints(max_length=256)]
ANY_OBJECT: Schema = {"type": "object"}


class StructuredOutputs(RuledBody):
    """A constraint on the reply, in the form of vLLM's ``structured_outputs``."""

    hints = frozenset({"disable_any_whitespace", "disable_fallback", "whitespace_pattern"})

    definition: Schema | str | None = Field(default=None, alias="json")
    """A JSON Schema, as an object or as JSON text."""
    regex: Annotated[str, StringConstraints(min_length=1, max_length=65536)] | None = None
    """A regular expression for the whole reply (without look-around and back-references)."""
    choice: Choices | None = None
    """The texts to choose from."""
    grammar: Annotated[str, StringConstraints(min_length=1, max_length=65536)] | None = None
    """A grammar for the whole reply, in llguidance's Lark or in GBNF."""
    json_object: bool | None = None
    """Any JSON object."""

    rules = (
        Rule(
            (),
            lambda body: (
                [
                    body.definition,
                    body.regex,
                    body.choice,
                    body.grammar,
                    body.json_object or None,
                ].count(None)
                == 4
            ),
            {
                "oneOf": [
                    *(
                        present_and(x, {"not": {"type": "null"}})
                        for x in ("json", "regex", "choice", "grammar")
                    ),
                    present_and("json_object", {"const": True}),
                ]
            },
            "give exactly one of json, regex, choice, grammar and json_object",
        ),
    )

    def shape(self) -> Shape:
        """Returns the constraint as a shape."""
        definition = ANY_OBJECT if self.json_object else self.definition
        shape = guided_shape(
            definition, self.regex, self.choice, self.grammar, "structured_outputs."
        )
        assert shape is not None
        return shape


def guided_shape(
    definition: Schema | str | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
    prefix: str = "guided_",
) -> Shape | None:
    """Returns the shape of the first constraint that is given; None without any.

    Args:
        prefix: what precedes the constraint's name in its parameter.

    Raises RequestError when a schema in JSON text is not valid.
    """
    if definition is not None:
        return JsonShape(_parsed_schema(definition, f"{prefix}json"), f"{prefix}json")
    if regex:
        return RegexShape(regex, f"{prefix}regex")
    if choice:
        return ChoiceShape(tuple(choice), f"{prefix}choice")
    return GrammarShape(grammar, f"{prefix}grammar") if grammar else None


def _parsed_schema(definition: Schema | str, where: str) -> Schema:
    if not isinstance(definition, str):
        return definition
    try:
        schema = from_json(definition)
    except ValueError:
        schema = None
    if not isinstance(schema, dict):
        message = f"invalid {where!r}: it is not the JSON text of a schema"
        raise RequestError(400, "structured_output_not_supported", message, where)
    return cast("Schema", schema)


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]
    definition: Schema | None = Field(default=None, alias="schema")
    """A JSON Schema, as llama.cpp reads it here. Default: any object."""


class JsonSchema(Body):
    definition: Schema | None = Field(default=None, alias="schema")
    """The JSON Schema (draft 2020-12). Default: any object."""
    name: FormatName | None = None
    description: str | None = None
    strict: bool | None = None
    """Accepted without effect: the reply always matches the schema."""


class JsonSchemaFormat(JsonSchema):
    """The schema is in ``json_schema``, or beside the type as in other dialects."""

    type: Literal["json_schema"]
    json_schema: JsonSchema | None = None


class RegexFormat(Body):
    """A regular expression for the whole reply, as TGI and Fireworks have it."""

    type: Literal["regex"]
    pattern: FormatText | None = None
    value: FormatText | None = None


class GrammarFormat(Body):
    """A grammar for the whole reply, as Fireworks and llama.cpp have it."""

    type: Literal["grammar"]
    grammar: FormatText


class FlatJsonSchemaFormat(JsonSchema):
    """The form of the Responses API and of Anthropic's API."""

    type: Literal["json_schema"]


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat,
    Field(discriminator="type"),
]
FlatFormat = Annotated[
    TextFormat | JsonObjectFormat | FlatJsonSchemaFormat, Field(discriminator="type")
]


def format_shape(
    response_format: ResponseFormat | FlatFormat | None,
    where: str,
) -> Shape | None:
    """Returns the shape that a format demands; None for plain text.

    Args:
        where: name of the parameter that holds the format, for error messages.
    """
    match response_format:
        case JsonObjectFormat(definition=definition):
            return JsonShape(definition or ANY_OBJECT, f"{where}.schema" if definition else where)
        case JsonSchemaFormat(json_schema=None, definition=definition):
            return JsonShape(ANY_OBJECT if definition is None else definition, f"{where}.schema")
        case JsonSchemaFormat(json_schema=JsonSchema(definition=definition)):
            definition = ANY_OBJECT if definition is None else definition
            return JsonShape(definition, f"{where}.json_schema.schema")
        case RegexFormat(pattern=pattern, value=value):
            return RegexShape(pattern or value or ".*", f"{where}.pattern")
        case GrammarFormat(grammar=grammar):
            return GrammarShape(grammar, f"{where}.grammar")
        case FlatJsonSchemaFormat(definition=definition):
            return JsonShape(ANY_OBJECT if definition is None else definition, f"{where}.schema")
        case _:
            return None
