"""Makes the reader of one reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pomona_gateway.parsers.derivation.known_notations import taught_notation
from pomona_gateway.parsers.derivation.template_notation import template_notation
from pomona_gateway.parsers.events import ReplyReader, Schemas
from pomona_gateway.parsers.harmony import HarmonyReader
from pomona_gateway.parsers.notation import ReplyNotation
from pomona_gateway.parsers.reader import MarkedReader
from pomona_gateway.text.chat_template import ChatTemplate


def reply_reader(
    notation: ReplyNotation, schemas: Schemas | None, prompt: str, opened: bool = False
) -> ReplyReader:
    """Returns a reader of one reply.

    Args:
        schemas: parameter schemas by tool name; None when no tool may be called.
        prompt: the rendered prompt, which may have opened the reasoning.
        opened: the reply continues text that opened the reasoning.
    """
    if notation.harmony:
        return HarmonyReader(schemas or {}, prompt)
    return MarkedReader(notation, schemas, prompt, opened)


def read_replies(
    template: str, tools: Sequence[Mapping[str, Any]] | None, prompt: str
) -> ReplyReader:
    """Returns a reader of one reply of the model that has this chat template.

    Renders the template in this process, without a deadline.

    Args:
        template: the source of a Jinja chat template.
        tools: OpenAI's tools; None or empty when no tool may be called.
        prompt: the rendered prompt.
    """
    notation = template_notation(template, ChatTemplate)
    if tools and not notation.calls_tools:
        notation = taught_notation(notation)
    return reply_reader(notation, _schemas(tools) if tools else None, prompt)


def _schemas(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    out: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        function = cast("Mapping[str, Any]", tool.get("function", tool))
        parameters = function.get("parameters")
        known = isinstance(parameters, Mapping)
        out[str(function.get("name"))] = cast("Mapping[str, Any]", parameters) if known else {}
    return out
