"""Prompts of conversations, for templates with and without support for tools."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from pomona.errors import RequestError
from pomona_gateway.text import LanguageModel
from pomona_gateway.text.chat_template import RESERVED
from pomona_gateway.text.render_chat import with_arguments

_INSTRUCTIONS = """You have these functions, one a line:
{functions}
{when}
<tool_call>
{{"name": "the function", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""
_CUT = "\ue000\ue001\ue000"
"""Marks where the last message ends: private characters that no client needs."""
_FORCED = "Answer only by calling them, each call written as"
_OPTIONAL = "Answer in words, or call those that help you to answer, each call written as"


async def chat_prompt(
    language: LanguageModel,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    variables: Mapping[str, Any] | None = None,
    *,
    continue_final: bool = False,
) -> tuple[str, array[int]]:
    """Renders a conversation up to the model's answer.

    Args:
        continue_final: end inside the last message, so that the answer continues it.

    Returns:
        The prompt as text and as token ids.

    Raises:
        RequestError: the model has no chat template, or rejects these messages or variables.
    """
    name = "tool_use" if tools and "tool_use" in language.templates else "default"
    template = language.templates.get(name)
    if template is None:
        message = "this model has no chat template, so it cannot chat; use /v1/completions"
        raise RequestError(400, "no_chat_template", message, "model")
    reserved = RESERVED & (variables or {}).keys()
    if reserved:
        parameter = f"chat_template_kwargs.{min(reserved)}"
        raise RequestError(400, "invalid_value", f"{parameter!r} cannot be set", parameter)

    messages = with_arguments(messages, language.output.arguments_as_text)
    given = {**(variables or {}), "messages": messages, "tools": tools}
    if not continue_final:
        return await language.prompter.render(template, given)
    # The template closes the last message after its content, so it is cut there.
    marked = [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}{_CUT}"}]
    given |= {"messages": marked, "add_generation_prompt": False}
    text, _ = await language.prompter.render(template, given)
    text = text.rpartition(_CUT)[0] or text
    return text, await language.prompter.encode(text, chat=True)


def supports_tools(language: LanguageModel) -> bool:
    """Checks that the chat template renders tools and that calls can be parsed."""
    name = "tool_use" if "tool_use" in language.templates else "default"
    template = language.templates.get(name)
    return language.output.calls_tools and template is not None and "tools" in template.source


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


def with_tool_calls_as_text(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Writes calls and their results as text in Hermes' notation.

    Templates without support for tools would leave them out.
    """
    out: list[Mapping[str, Any]] = []
    is_result = False
    for message in messages:
        follows_result, is_result = is_result, message.get("role") == "tool"
        if is_result:
            result = f"<tool_response>\n{message.get('content', '')}\n</tool_response>"
            if follows_result:
                result = f"{out.pop()['content']}\n{result}"
            out.append({"role": "user", "content": result})
        elif message.get("tool_calls"):
            calls = "\n".join(_call_as_text(call["function"]) for call in message["tool_calls"])
            content = f"{message.get('content') or ''}\n{calls}".lstrip("\n")
            out.append({"role": "assistant", "content": content})
        else:
            out.append(message)
    return out


def _call_as_text(function: Mapping[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>"
