"""Opens a dialogue: what all chat dialects do once they have read their request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pomona.errors import RequestError
from pomona_gateway.api.parameters import SamplingParameters, sampling
from pomona_gateway.completion import Completion
from pomona_gateway.dialogue import Dialogue, Tools
from pomona_gateway.gateway import Gateway
from pomona_gateway.prompts import chat_prompt
from pomona_gateway.tokenizer import LanguageModel

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


async def open_dialogue(
    gateway: Gateway,
    parameters: SamplingParameters,
    messages: Sequence[Mapping[str, Any]],
    tools: Tools,
    max_tokens: int | None,
    logprobs: int | None = None,
    effort: Effort | None = None,
    variables: Mapping[str, Any] | None = None,
) -> Dialogue:
    """Render and tokenise the prompt, and say how replies are drawn and read.

    Raises RequestError for what this model cannot do.
    """
    name, language = gateway.catalogue.find(parameters.model)
    output = language.output
    if tools.definitions and not output.calls_tools:
        message = "this model's chat template shows no notation for tool calls"
        raise RequestError(400, "tools_not_supported", message, "tools")
    settings = {**_effort(language, effort), **(variables or {})}
    text, prompt = await chat_prompt(language, messages, tools.definitions, settings)
    completion = Completion(
        model=name,
        language=language,
        prompts=(prompt,),
        sampling=sampling(parameters, language, len(prompt), max_tokens, logprobs),
        stops=parameters.stops(),
        count=parameters.n or 1,
        visible=language.tokenizer.named(output.marks(bool(tools.definitions))),
    )
    return Dialogue(completion, text, output, tools)


def _effort(language: LanguageModel, effort: Effort | None) -> dict[str, Any]:
    """The template variables by which models are told how much to reason."""
    if effort is None:
        return {}
    source = language.templates["default"].source if "default" in language.templates else ""
    found: dict[str, Any] = {}
    if "reasoning_effort" in source:
        found["reasoning_effort"] = effort
    if "enable_thinking" in source:
        found["enable_thinking"] = effort != "none"
    if not found:
        message = "this model's chat template has no setting for how much it reasons"
        raise RequestError(400, "reasoning_effort_not_supported", message, "reasoning_effort")
    return found
