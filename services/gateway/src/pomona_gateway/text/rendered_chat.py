"""Renders a conversation in the form that its chat template can express."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pomona.errors import RequestError
from pomona_gateway.text.chat_template import ChatTemplate
from pomona_gateway.text.conversation import REASONING_FIELDS, adapt_messages, adapt_tools
from pomona_gateway.text.template_traits import STRICT, TemplateTraits
from pomona_gateway.text.tool_instructions import TAUGHT_CALL, with_tool_instructions
from pomona_gateway.text.tool_schemas import SimplifiedPart, ToolForm, tool_forms, tools_shown

_EMPTY_SYSTEM = {"role": "system", "content": ""}
CONTINUED_AT = "⟦continued-here-8f1c2e⟧"
"""Text put where the reply continues the last message. The prompt ends before it."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A prompt.

    Attributes:
        simplified: parts of the tools' parameters that the prompt says otherwise than the client.
    """

    text: str
    simplified: tuple[SimplifiedPart, ...] = ()


def render_conversation(
    template: ChatTemplate,
    traits: TemplateTraits,
    variables: Mapping[str, Any],
    continue_final: bool = False,
    generation: bool = True,
    call: str = TAUGHT_CALL,
) -> RenderedChat:
    """Renders messages and tools, adapted to the template.

    Where the template rejects tools, or leaves out a name of one or of an argument, it gets them
    in simpler forms. Messages that it rejects all the same take the strictest form. At last a
    system message explains the tools.

    Args:
        variables: ``messages``, ``tools`` and other variables of the template.
        continue_final: the prompt ends with the text of the last message, if that is one of the
            assistant without calls, so that the reply continues it.
        generation: the prompt ends with what begins the assistant's turn.
        call: a call as the model shall write it where a system message explains the tools; empty
            for none.

    Raises:
        RequestError: the template rejects every form.
    """
    messages = variables["messages"]
    continued = continue_final and is_continuable(messages)
    if continued:
        messages = _with_mark(messages)
    tools = adapt_tools(variables.get("tools") or (), traits)
    given = {**variables, "add_generation_prompt": generation and not continued}
    first: RequestError | None = None
    partial: RenderedChat | None = None
    for adapted, form in _forms(messages, tools, traits, call):
        try:
            text = _render(template, {**given, "messages": adapted, "tools": form.tools}, continued)
        except RequestError as error:
            first = first or error
            continue
        rendered = RenderedChat(text, form.simplified)
        if tools_shown(text, form.tools) and _shows_last_call(text, messages):
            return rendered
        partial = partial or rendered
    if partial is not None:
        return partial
    assert first is not None
    raise first


def _forms(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    traits: TemplateTraits,
    call: str,
) -> Iterator[tuple[Sequence[Mapping[str, Any]], ToolForm]]:
    """Yields messages and tools in ever simpler forms."""
    for own in (traits, STRICT):
        adapted = adapt_messages(messages, own)
        for form in tool_forms(tools):
            yield adapted, form
        if tools and own.system and messages[:1] and messages[0]["role"] != "system":
            # Some templates show tools only within a system message.
            yield [_EMPTY_SYSTEM, *adapted], ToolForm(tools)
    if tools and call:
        taught = with_tool_instructions(messages, tools, forced=False, call=call)
        for own in (traits, STRICT):
            yield adapt_messages(taught, own), ToolForm(())
    # Templates may refuse reasoning of earlier turns, which others leave out.
    yield _without_reasoning(adapt_messages(messages, traits)), ToolForm(tools)


def _without_reasoning(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [
        {key: value for key, value in message.items() if key not in REASONING_FIELDS}
        for message in messages
    ]


def _shows_last_call(text: str, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether a conversation that ends with calls is rendered to its end."""
    calls = messages[-1].get("tool_calls") if messages else None
    if not calls:
        return True
    users = [message.get("content") for message in messages if message["role"] == "user"]
    asked = users[-1] if users else None
    after = text.rpartition(asked)[2] if asked and isinstance(asked, str) else text
    return calls[0]["function"]["name"] in after


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
