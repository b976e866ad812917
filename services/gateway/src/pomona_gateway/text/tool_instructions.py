"""Explains tools to a model in a system message, for templates that do not render them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pomona_gateway.parsers.derivation.known_notations import HARMONY, HERMES
from pomona_gateway.parsers.notation import CallNotation, ReplyNotation
from pomona_gateway.parsers.written_calls import written_calls

_INSTRUCTIONS = """You have these functions, one a line:
{functions}
{when}
{call}"""
_FORCED = "Answer only by calling them, each call written as"
_OPTIONAL = "Answer in words, or call those that help you to answer, each call written as"
_EXAMPLE = ("the function", {"an argument": "its value"})


def example_call(notation: ReplyNotation) -> str:
    """Returns a call as the replies of a model are read; empty when mlx-lm's parser reads them."""
    calls: CallNotation = HARMONY if notation.harmony else notation.calls or HERMES
    return "" if calls.style == "mlx_lm" else written_calls(calls, [_EXAMPLE])


TAUGHT_CALL = written_calls(HERMES, [_EXAMPLE])
"""A call in the notation that is taught to models whose template has none."""


def with_tool_instructions(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    forced: bool,
    call: str = TAUGHT_CALL,
) -> list[Mapping[str, Any]]:
    """Adds tools to the system message.

    Args:
        forced: the reply must consist of calls.
        call: a call as the model shall write it.
    """
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    when = _FORCED if forced else _OPTIONAL
    instructions = _INSTRUCTIONS.format(functions=functions, when=when, call=call)
    if messages and messages[0].get("role") == "system":
        first = messages[0]
        joined = f"{first.get('content', '')}\n\n{instructions}"
        return [{**first, "content": joined}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]
