"""Adds earlier calls in a model's own notation to a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pomona_gateway.parsers.derivation.known_notations import HERMES
from pomona_gateway.parsers.notation import CallNotation
from pomona_gateway.parsers.written_calls import written_calls
from pomona_gateway.text.conversation import CALLS_TEXT


def with_calls_text(
    messages: Sequence[Mapping[str, Any]], notation: CallNotation | None
) -> Sequence[Mapping[str, Any]]:
    """Adds earlier calls in the model's own notation, for a template that renders only tools.

    Hermes' notation is that of calls written as text, and marks their results too.
    """
    if notation is None or notation == HERMES or notation.style == "mlx_lm":
        return messages
    out: list[Mapping[str, Any]] = []
    for message in messages:
        functions = [call["function"] for call in message.get("tool_calls") or []]
        calls = [(x["name"], x["arguments"]) for x in functions]
        whole = calls and all(isinstance(arguments, Mapping) for _, arguments in calls)
        written = {CALLS_TEXT: written_calls(notation, calls)} if whole else {}
        out.append({**message, **written})
    return out
