"""Renders conversations in OpenAI's form through a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from pomona_gateway.parsers.derivation.template_notation import template_notation
from pomona_gateway.text.calls_text import with_calls_text
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.rendered_chat import render_conversation
from pomona_gateway.text.template_traits import TemplateTraits, probe_template
from pomona_gateway.text.tool_instructions import example_call


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    **special_tokens: Any,
) -> str:
    """Renders a conversation in the form that the template expresses. A prompt for the model's
    answer ends it, unless the last message is the assistant's.

    Probes and renders the template in this process, without a deadline.

    Args:
        template: the source of a Jinja chat template.
        messages: in OpenAI's form; arguments of calls may be JSON text or objects.
        tools: in OpenAI's form.
        special_tokens: like ``bos_token``, and other variables of the template.

    Raises:
        RequestError: the template rejects the messages in every form.
    """
    notation = template_notation(template, ChatTemplate)
    variables = dict(special_tokens)
    answers = not messages or messages[-1].get("role") != "assistant"
    generation = bool(variables.pop("add_generation_prompt", answers))
    texts = {name: text for name, text in variables.items() if name.endswith("_token")}
    others = {name: value for name, value in variables.items() if name not in texts}
    own, traits = _template(template, tuple(sorted(texts.items())))
    objects = [_with_objects(message) for message in messages]
    given = with_calls_text(objects, notation.calls)
    variables = {**others, "messages": given, "tools": tools or ()}
    call = example_call(notation)
    return render_conversation(own, traits, variables, generation=generation, call=call).text


@lru_cache(maxsize=64)
def _template(
    source: str, special_tokens: tuple[tuple[str, str], ...]
) -> tuple[ChatTemplate, TemplateTraits]:
    template = ChatTemplate(source, dict(special_tokens))
    return template, probe_template(template.render)


def _with_objects(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the message with the arguments of its calls as objects, where they are JSON."""
    calls = message.get("tool_calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return message
    return {**message, "tool_calls": [_call(call) for call in cast("Sequence[Any]", calls)]}


def _call(call: Any) -> Any:
    function = cast("Mapping[str, Any]", call).get("function") if isinstance(call, Mapping) else 0
    if not isinstance(function, Mapping):
        return call
    own = cast("Mapping[str, Any]", function)
    arguments = own.get("arguments")
    if isinstance(arguments, str):
        try:
            read = json.loads(arguments or "{}")
        except ValueError:
            read = None
        arguments = cast("Any", read) if isinstance(read, Mapping) else arguments
    return {**cast("Mapping[str, Any]", call), "function": {**own, "arguments": arguments}}
