"""Writes JSON Schemas as rules of a grammar."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher

from pomona_gateway.grammar.shapes import JsonShape

SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line, the most common form in models' output. Where a grammar allows any
whitespace, small models write whitespace forever."""


def json_rule(shape: JsonShape) -> str:
    """Returns a JSON value of a shape as a Lark expression of llguidance."""
    return f"%json {_annotated_schema(shape)}"


def json_grammar(shape: JsonShape) -> str:
    """Returns a JSON value of a shape as a grammar of its own."""
    return LLMatcher.grammar_from_json_schema(_annotated_schema(shape))


def _annotated_schema(shape: JsonShape) -> str:
    """Returns the schema with llguidance's options."""
    options: dict[str, Any] = {**SPACING, "lenient": shape.lenient}
    return json.dumps({**shape.schema, "x-guidance": options})
