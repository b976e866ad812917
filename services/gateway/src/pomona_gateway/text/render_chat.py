"""Renders conversations in OpenAI's form through a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from pomona_gateway.parsers.derivation.template_notation import template_notation
from pomona_gateway.text.chat_template import ChatTemplate


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    **special_tokens: Any,
) -> str:
    """Renders a conversation. A prompt for the model's answer ends it, unless the last message
    is the assistant's.

    Args:
        template: the source of a Jinja chat template.
        messages: in OpenAI's form; arguments of calls may be JSON text or objects.
        tools: in OpenAI's form.
        special_tokens: like ``bos_token``, and other variables of the template.
    """
    notation = template_notation(template, ChatTemplate)
    variables = dict(special_tokens)
    answers = not messages or messages[-1].get("role") != "assistant"
    generation = bool(variables.pop("add_generation_prompt", answers))
    texts = {name: text for name, text in variables.items() if name.endswith("_token")}
    others = {name: value for name, value in variables.items() if name not in texts}
    given = with_arguments(messages, notation.arguments_as_text)
    own = _template(template, tuple(sorted(texts.items())))
    return own.render(given, tools, generation, **others)


@lru_cache(maxsize=64)
def _template(source: str, special_tokens: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(special_tokens))


def with_arguments(messages: Sequence[Mapping[str, Any]], as_text: bool) -> list[Mapping[str, Any]]:
    """The messages with the arguments of calls as the template wants them: as JSON text, or as
    objects."""
    return [_with_arguments(message, as_text) for message in messages]


def _with_arguments(message: Mapping[str, Any], as_text: bool) -> Mapping[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return message
    return {
        **message,
        "tool_calls": [_call(call, as_text) for call in cast("Sequence[Any]", calls)],
    }


def _call(call: Any, as_text: bool) -> Any:
    function = cast("Mapping[str, Any]", call).get("function") if isinstance(call, Mapping) else 0
    if not isinstance(function, Mapping):
        return call
    own = cast("Mapping[str, Any]", function)
    arguments = own.get("arguments")
    if as_text and isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not as_text and isinstance(arguments, str):
        try:
            read = json.loads(arguments or "{}")
        except ValueError:
            read = None
        arguments = cast("Any", read) if isinstance(read, Mapping) else arguments
    return {**cast("Mapping[str, Any]", call), "function": {**own, "arguments": arguments}}
