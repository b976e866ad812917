"""Prompts of conversations, for templates with and without support for tools."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from pomona.errors import RequestError
from pomona_gateway.text import LanguageModel
from pomona_gateway.text.calls_text import with_calls_text
from pomona_gateway.text.chat_template import RESERVED
from pomona_gateway.text.tool_instructions import example_call
from pomona_gateway.text.tool_schemas import SimplifiedPart


async def chat_prompt(
    language: LanguageModel,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    variables: Mapping[str, Any] | None = None,
    continue_final: bool = True,
    parameter: str = "messages",
    simplified: list[SimplifiedPart] | None = None,
) -> tuple[str, array[int]]:
    """Renders a conversation up to the model's answer, in the form that its template expresses.

    Args:
        continue_final: the answer continues a last message of the assistant, instead of
            following it.
        parameter: request parameter that holds the conversation, for the error of a long one.
        simplified: takes the parts of the tools that the prompt says otherwise than the client.

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
    if tools:
        stable = with_calls_text(stable, language.output.calls)
    given = {**(variables or {}), "messages": stable, "tools": tools}
    limit = language.text_limit(parameter)
    call = example_call(language.output)
    return await language.prompter.render(
        template, given, traits, continue_final, limit, call, simplified
    )


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
