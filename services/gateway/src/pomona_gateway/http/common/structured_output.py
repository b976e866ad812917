"""Parameters that constrain a reply to a JSON Schema, a regular expression or a choice."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pomona_gateway.grammar import ChoiceShape, JsonShape, RegexShape, Shape
from pomona_gateway.http.request_body import Body, Rule, RuledBody, present_and

MAX_CHOICES = 1024

Schema = dict[str, Any]
ChoiceText = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Choices = Annotated[list[ChoiceText], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES)]
FormatName = Annotated[str, StringConstraints(max_length=256)]
ANY_OBJECT: Schema = {"type": "object"}


class StructuredOutputs(RuledBody):
    """A constraint on the reply, in the form of vLLM's ``structured_outputs``."""

    definition: Schema | None = Field(default=None, alias="json")
    """A JSON Schema."""
    regex: Annotated[str, StringConstraints(min_length=1, max_length=65536)] | None = None
    """A regular expression for the whole reply (without look-around and back-references)."""
    choice: Choices | None = None
    """The texts to choose from."""

    rules = (
        Rule(
            (),
            lambda body: [body.definition, body.regex, body.choice].count(None) == 2,
            {
                "oneOf": [
                    present_and(x, {"not": {"type": "null"}}) for x in ("json", "regex", "choice")
                ]
            },
            "give exactly one of json, regex and choice",
        ),
    )

    def shape(self) -> Shape:
        """Returns the constraint as a shape."""
        where = "structured_outputs"
        if self.definition is not None:
            return JsonShape(self.definition, f"{where}.json")
        if self.regex is not None:
            return RegexShape(self.regex, f"{where}.regex")
        return ChoiceShape(tuple(self.choice or ()), f"{where}.choice")


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchema(Body):
    definition: Schema = Field(alias="schema")
    """The JSON Schema (draft 2020-12)."""
    name: FormatName | None = None
    description: str | None = None
    strict: bool | None = None
    """Accepted without effect: the reply always matches the schema."""


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class FlatJsonSchemaFormat(JsonSchema):
    """The form of the Responses API and of Anthropic's API."""

    type: Literal["json_schema"]


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]
FlatFormat = Annotated[
    TextFormat | JsonObjectFormat | FlatJsonSchemaFormat, Field(discriminator="type")
]


def format_shape(
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | FlatJsonSchemaFormat | None,
    where: str,
) -> Shape | None:
    """Returns the shape that a format demands; None for plain text.

    Args:
        where: name of the parameter that holds the format, for error messages.
    """
    match response_format:
        case JsonObjectFormat():
            return JsonShape(ANY_OBJECT, where)
        case JsonSchemaFormat(json_schema=schema):
            return JsonShape(schema.definition, f"{where}.json_schema.schema")
        case FlatJsonSchemaFormat(definition=definition):
            return JsonShape(definition, f"{where}.schema")
        case _:
            return None
