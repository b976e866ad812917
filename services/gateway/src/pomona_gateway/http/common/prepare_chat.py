"""Prepares a chat: prompt, sampling, grammar, and the notation to parse the reply with."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.chat import ChatCompletion, Tools
from pomona_gateway.generation.completion import Completion
from pomona_gateway.grammar import Shape
from pomona_gateway.http.common.constrain_reply import chat_constraint, constrain_chat
from pomona_gateway.http.common.reasoning import (
    ReasoningWish,
    reasoning_variables,
    template_reads,
)
from pomona_gateway.http.common.sampling_parameters import SamplingParameters, build_sampling
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.parsers import taught_notation
from pomona_gateway.text import LanguageModel
from pomona_gateway.text.conversation import calls_as_text
from pomona_gateway.text.prompts import chat_prompt, supports_tools
from pomona_gateway.text.tool_instructions import with_tool_instructions
from pomona_gateway.text.tool_schemas import SimplifiedPart


async def prepare_chat(
    gateway: Gateway,
    parameters: SamplingParameters,
    messages: Sequence[Mapping[str, Any]],
    tools: Tools,
    max_tokens: int | None,
    ignored: IgnoredParameters,
    shape: Shape | None = None,
    top_logprobs: int | None = None,
    wish: ReasoningWish | None = None,
    template_variables: Mapping[str, Any] | None = None,
    continue_final: bool = False,
    prompt_parameter: str = "messages",
    prediction: str = "",
) -> ChatCompletion:
    """Renders and tokenises the prompt, and decides how replies are sampled and parsed.

    Args:
        messages: the conversation in the form that chat templates read.
        max_tokens: maximum tokens of a reply; None for the default.
        ignored: takes the parameters that have no effect on this model.
        shape: what the text of a reply must match.
        top_logprobs: alternatives to report for each token; None for no logprobs.
        wish: how much the model should reason.
        continue_final: the reply continues the last message, which is the assistant's.
        prompt_parameter: the parameter that holds the prompt, for error messages.
        prediction: text that the reply is expected to have.

    Raises RequestError for what this model does not support.
    """
    name, language = gateway.models.find(parameters.model)
    output = language.output if supports_tools(language) else taught_notation(language.output)
    for variable in template_variables or {}:
        if not template_reads(language, variable):
            ignored.add(f"chat_template_kwargs.{variable}")
    variables = {
        **reasoning_variables(language, wish, ignored),
        **(template_variables or {}),
    }
    simplified: list[SimplifiedPart] = []
    text, prompt = await render_prompt(
        language, messages, tools, variables, continue_final, prompt_parameter, simplified
    )
    for index, path in simplified:
        ignored.add(f"{tools.functions[index].where}.{path}")
    sampling = build_sampling(
        parameters,
        language,
        len(prompt),
        max_tokens or default_limit(gateway, language.context_length - len(prompt), ignored),
        top_logprobs,
        prompt_parameter,
    )
    last = messages[-1] if continue_final and messages else {}
    opened = output.opened(text) or output.left_open(str(last.get("content") or ""))
    outcome = chat_constraint(output, tools, shape)
    if outcome is None:
        for function in tools.functions:
            if function.strict:
                ignored.add(f"{function.where.removesuffix('.parameters')}.strict")
    else:
        sampling = await constrain_chat(
            gateway, language, parameters, sampling, (output, opened, outcome), ignored
        )
    completion = Completion(
        model=name,
        language=language,
        prompts=(prompt,),
        sampling=sampling,
        stops=parameters.stop_strings(),
        n=parameters.n or 1,
        visible_tokens=language.tokenizer.special_ids_of(
            output.visible(language.tokenizer.special_tokens, bool(tools.functions))
        ),
        speculative=parameters.speculative is not False,
        prediction=await language.prompter.encode(prediction) if prediction else None,
    )
    return ChatCompletion(completion, text, output, tools, opened)


async def render_prompt(
    language: LanguageModel,
    messages: Sequence[Mapping[str, Any]],
    tools: Tools,
    variables: Mapping[str, Any],
    continue_final: bool = False,
    parameter: str = "messages",
    simplified: list[SimplifiedPart] | None = None,
) -> tuple[str, array[int]]:
    """Returns the prompt as text and as token ids.

    If ``continue_final``, it ends inside the last message.

    If the model's template does not support tools, the prompt explains them to the model.

    Args:
        simplified: takes the parts of the tools that the prompt says otherwise than the client.
    """
    if supports_tools(language):
        return await chat_prompt(
            language,
            messages,
            tools.definitions,
            variables,
            continue_final,
            parameter,
            simplified,
        )
    written: Sequence[Mapping[str, Any]] = calls_as_text(messages)
    if tools.functions:
        written = with_tool_instructions(written, tools.definitions, tools.forced)
    return await chat_prompt(language, written, (), variables, continue_final, parameter)


def default_limit(gateway: Gateway, room: int, ignored: IgnoredParameters) -> int | None:
    """Returns the maximum tokens of a reply whose request sets no limit.

    It is noted in ``ignored`` when it is lower than the ``room`` in the context.
    """
    limit = gateway.settings.default_max_tokens or None
    if limit is not None and limit < room:
        ignored.add(f"max_tokens.default-{limit}")
    return limit
