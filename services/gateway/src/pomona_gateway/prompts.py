"""Prompts: from a conversation or a text to ids."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from pomona.errors import RequestError
from pomona_gateway.tokenizer import LanguageModel
from pomona_gateway.tokenizer.chat_template import RESERVED

LONG_TEXT = 20_000
"""Characters from which a prompt is tokenised in a thread."""

TAUGHT_CALLS = """You have these functions, one a line:
{functions}
Answer only by calling them, each call written as
<tool_call>
{{"name": "the function", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""


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
    if tools and not takes_tools(language):
        message = "this model's chat template has no place for tools; it was not trained for them"
        raise RequestError(400, "tools_not_supported", message, "tools")
    reserved = RESERVED & (variables or {}).keys()
    if reserved:
        parameter = f"chat_template_kwargs.{min(reserved)}"
        raise RequestError(400, "invalid_value", f"{parameter!r} cannot be set", parameter)

    def encode() -> tuple[str, array[int]]:
        text = template.render(messages, tools, **(variables or {}))
        return text, language.tokenizer.encode(text, chat=True)

    size = sum(len(str(message.get("content", ""))) for message in messages)
    return await asyncio.to_thread(encode) if size > LONG_TEXT else encode()


def takes_tools(language: LanguageModel) -> bool:
    """Whether the model's chat template has a place for tools."""
    name = "tool_use" if "tool_use" in language.templates else "default"
    template = language.templates.get(name)
    return template is not None and "tools" in template.source


def with_taught_calls(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The messages, and in the system's one how to call the tools: for a model whose template
    has no place for them."""
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    lesson = TAUGHT_CALLS.format(functions=functions)
    if messages and messages[0].get("role") == "system":
        first = messages[0]
        joined = f"{first.get('content', '')}\n\n{lesson}"
        return [{**first, "content": joined}, *messages[1:]]
    return [{"role": "system", "content": lesson}, *messages]


async def text_prompt(language: LanguageModel, text: str) -> array[int]:
    """A text that the model goes on with, begun as the model's makers say."""
    if len(text) > LONG_TEXT:
        return await asyncio.to_thread(language.tokenizer.encode, text, False)
    return language.tokenizer.encode(text, chat=False)
