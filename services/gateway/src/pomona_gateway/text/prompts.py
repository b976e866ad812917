"""Prompts: from a conversation or a text to ids."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from pomona.errors import RequestError
from pomona_gateway.text import LanguageModel
from pomona_gateway.text.chat_template import RESERVED
from pomona_gateway.text.conversation import with_arguments

_LESSON = """You have these functions, one a line:
{functions}
{when}
<tool_call>
{{"name": "the function", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""
_ALWAYS = "Answer only by calling them, each call written as"
_PERHAPS = "Answer in words, or call those that help you to answer, each call written as"


async def chat_prompt(
    language: LanguageModel,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    variables: Mapping[str, Any] | None = None,
) -> tuple[str, array[int]]:
    """A conversation up to where the model answers, as text and as ids.

    Raises RequestError when the model cannot chat, or cannot chat like this.
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

    own = with_arguments(messages, language.output.arguments_as_text)
    given = {**(variables or {}), "messages": own, "tools": tools}
    return await language.prompter.render(template, given)


def knows_tools(language: LanguageModel) -> bool:
    """Whether the model's chat template has a place for tools, and a notation for calls that
    can be read."""
    name = "tool_use" if "tool_use" in language.templates else "default"
    template = language.templates.get(name)
    return language.output.calls_tools and template is not None and "tools" in template.source


def with_taught_calls(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], forced: bool
) -> list[Mapping[str, Any]]:
    """The messages, and in the system's one how to call the tools: for a model whose template
    does not say it. ``forced``: the reply must be calls."""
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    lesson = _LESSON.format(functions=functions, when=_ALWAYS if forced else _PERHAPS)
    if messages and messages[0].get("role") == "system":
        first = messages[0]
        joined = f"{first.get('content', '')}\n\n{lesson}"
        return [{**first, "content": joined}, *messages[1:]]
    return [{"role": "system", "content": lesson}, *messages]


def with_written_calls(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages with calls and their results as text, in Hermes' notation, which templates
    that know no tools would leave out."""
    out: list[Mapping[str, Any]] = []
    answered = False
    for message in messages:
        answers, answered = answered, message.get("role") == "tool"
        if answered:
            result = f"<tool_response>\n{message.get('content', '')}\n</tool_response>"
            if answers:
                result = f"{out.pop()['content']}\n{result}"
            out.append({"role": "user", "content": result})
        elif message.get("tool_calls"):
            calls = "\n".join(_written_call(call["function"]) for call in message["tool_calls"])
            said = f"{message.get('content') or ''}\n{calls}".lstrip("\n")
            out.append({"role": "assistant", "content": said})
        else:
            out.append(message)
    return out


def _written_call(function: Mapping[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>"
