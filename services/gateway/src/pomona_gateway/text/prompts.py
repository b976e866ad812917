"""Prompts of conversations, for templates with and without support for tools."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from pomona.errors import RequestError
from pomona_gateway.parsers import written_calls
from pomona_gateway.parsers.derivation.known_notations import HERMES
from pomona_gateway.parsers.notation import CallNotation
from pomona_gateway.text import LanguageModel
from pomona_gateway.text.chat_template import RESERVED
from pomona_gateway.text.conversation import CALLS_TEXT

_INSTRUCTIONS = """You have these functions, one a line:
{functions}
{when}
<tool_call>
{{"name": "the function", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""
_FORCED = "Answer only by calling them, each call written as"
_OPTIONAL = "Answer in words, or call those that help you to answer, each call written as"


async def chat_prompt(
    language: LanguageModel,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    variables: Mapping[str, Any] | None = None,
    continue_final: bool = True,
    parameter: str = "messages",
) -> tuple[str, array[int]]:
    """Renders a conversation up to the model's answer, in the form that its template expresses.

    Args:
        continue_final: the answer continues a last message of the assistant, instead of
            following it.
        parameter: request parameter that holds the conversation, for the error of a long one.

    Returns:
        The prompt as text and as token ids.

    Raises:
        RequestError: the model has no chat template, or rejects these messages or variables.
    """
    name = language.template_for(bool(tools))
    template = language.templates.get(name)
    if template is None:
        message = "this model has no chat template, so it cannot chat; use /v1/completions"
        raise RequestError(400, "no_chat_template", message, "model")
    reserved = RESERVED & (variables or {}).keys()
    if reserved:
        parameter = f"chat_template_kwargs.{min(reserved)}"
        raise RequestError(400, "invalid_value", f"{parameter!r} cannot be set", parameter)

    stable = language.system_lines.stabilise(messages)
    traits = language.traits_of(name)
    if not traits.calls and tools:
        stable = _with_calls_text(stable, language.output.calls)
    given = {**(variables or {}), "messages": stable, "tools": tools}
    limit = language.text_limit(parameter)
    return await language.prompter.render(template, given, traits, continue_final, limit)


def _with_calls_text(
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
        written = {CALLS_TEXT: written_calls(notation, calls)} if calls else {}
        out.append({**message, **written})
    return out


def supports_tools(language: LanguageModel) -> bool:
    """Checks that the chat template renders tools and that calls can be parsed."""
    name = language.template_for(tools=True)
    template = language.templates.get(name)
    return (
        language.output.calls_tools
        and template is not None
        and ("tools" in template.source or "functions" in template.source)
        and language.traits_of(name).tools
    )


def with_tool_instructions(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], forced: bool
) -> list[Mapping[str, Any]]:
    """Adds tools to the system message, for a template that does not render them.

    Args:
        forced: the reply must consist of calls.
    """
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    when = _FORCED if forced else _OPTIONAL
    instructions = _INSTRUCTIONS.format(functions=functions, when=when)
    if messages and messages[0].get("role") == "system":
        first = messages[0]
        joined = f"{first.get('content', '')}\n\n{instructions}"
        return [{**first, "content": joined}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]
