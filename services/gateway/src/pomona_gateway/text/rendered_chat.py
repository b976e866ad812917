"""Renders a conversation in the form that its chat template can express."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pomona.errors import RequestError
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.conversation import adapt_messages, adapt_tools, plain_tools
from pomona_gateway.text.template_traits import STRICT, TemplateTraits

CONTINUED_AT = "⟦continued-here-8f1c2e⟧"
"""Text put where the reply continues the last message. The prompt ends before it."""


def render_conversation(
    template: ChatTemplate,
    traits: TemplateTraits,
    variables: Mapping[str, Any],
    continue_final: bool = False,
) -> str:
    """Renders messages and tools, adapted to the template.

    What the template rejects all the same is rendered once more with simpler schemas of tools,
    and with messages in the strictest form.

    Args:
        variables: ``messages``, ``tools`` and other variables of the template.
        continue_final: the prompt ends with the text of the last message, if that is one of the
            assistant without calls, so that the reply continues it.

    Raises:
        RequestError: the template rejects every form.
    """
    messages = variables["messages"]
    continued = continue_final and is_continuable(messages)
    if continued:
        messages = _with_mark(messages)
    tools = adapt_tools(variables.get("tools") or (), traits)
    given = {
        **variables,
        "tools": tools,
        "add_generation_prompt": not continued,
    }
    forms: list[dict[str, Any]] = [{"messages": adapt_messages(messages, traits)}]
    if tools:
        forms.append({**forms[0], "tools": plain_tools(tools)})
    forms.append({"messages": adapt_messages(messages, STRICT)})
    if tools:
        forms.append({**forms[-1], "tools": forms[1]["tools"]})
    first: RequestError | None = None
    for form in forms:
        try:
            return _render(template, {**given, **form}, continued)
        except RequestError as error:
            first = first or error
    assert first is not None
    raise first


def is_continuable(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether the last message is one of the assistant without calls."""
    last = messages[-1] if messages else {}
    return last.get("role") == "assistant" and not last.get("tool_calls")


def _with_mark(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    last = messages[-1]
    return [*messages[:-1], {**last, "content": f"{last.get('content') or ''}{CONTINUED_AT}"}]


def _render(template: ChatTemplate, variables: Mapping[str, Any], continued: bool) -> str:
    text = template.render(**variables)
    if not continued:
        return text
    prompt, mark, _ = text.rpartition(CONTINUED_AT)
    if not mark:
        raise RequestError(
            400,
            "invalid_messages",
            "the model's chat template leaves out the last message, so it cannot be continued; "
            "end the conversation with a message of the user",
            "messages",
        )
    return prompt
