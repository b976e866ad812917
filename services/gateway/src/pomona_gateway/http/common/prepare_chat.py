"""Opens a dialogue: what all chat dialects do once they have read their request."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pomona.errors import RequestError
from pomona.messages.sampling import Sampling
from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.chat import ChatCompletion, Function, Tools
from pomona_gateway.generation.completion import Completion
from pomona_gateway.grammar import (
    CallableFunction,
    JsonShape,
    Outcome,
    ReplyGrammar,
    Shape,
    body_grammar,
    dialogue_grammar,
)
from pomona_gateway.http.common.sampling_parameters import SamplingParameters, sampling
from pomona_gateway.parsers import ReplyNotation, taught_notation
from pomona_gateway.text import LanguageModel
from pomona_gateway.text.prompts import (
    chat_prompt,
    knows_tools,
    with_taught_calls,
    with_written_calls,
)

_OPEN = ("patternProperties", "$ref", "anyOf", "oneOf", "allOf", "if", "dependentSchemas")
"""Where these are, a schema allows more arguments than its ``properties``."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


async def open_dialogue(
    gateway: Gateway,
    parameters: SamplingParameters,
    messages: Sequence[Mapping[str, Any]],
    tools: Tools,
    max_tokens: int | None,
    shape: Shape | None = None,
    logprobs: int | None = None,
    effort: Effort | None = None,
    variables: Mapping[str, Any] | None = None,
) -> ChatCompletion:
    """Render and tokenise the prompt, and say how replies are drawn and read.

    Raises RequestError for what this model cannot do.
    """
    name, language = gateway.catalogue.find(parameters.model)
    output = language.output if knows_tools(language) else taught_notation(language.output)
    settings = {**_effort(language, effort), **(variables or {})}
    text, prompt = await dialogue_prompt(language, messages, tools, settings)
    drawn = sampling(parameters, language, len(prompt), max_tokens, logprobs)
    outcome = _outcome(output, tools, shape)
    if outcome is not None:
        special = language.tokenizer.special_tokens
        grammar = dialogue_grammar(output, output.opened(text), special, outcome)
        drawn = await held(gateway, language, parameters, drawn, grammar)
    completion = Completion(
        model=name,
        language=language,
        prompts=(prompt,),
        sampling=drawn,
        stops=parameters.stops(),
        count=parameters.n or 1,
        visible=language.tokenizer.named(
            output.visible(language.tokenizer.special_tokens, bool(tools.functions))
        ),
    )
    return ChatCompletion(completion, text, output, tools)


async def dialogue_prompt(
    language: LanguageModel,
    messages: Sequence[Mapping[str, Any]],
    tools: Tools,
    variables: Mapping[str, Any],
) -> tuple[str, array[int]]:
    """The prompt as text and as ids. A model whose template knows no tools is taught them."""
    if knows_tools(language):
        return await chat_prompt(language, messages, tools.definitions, variables)
    written = with_written_calls(messages)
    if tools.functions:
        written = with_taught_calls(written, tools.definitions, tools.forced)
    return await chat_prompt(language, written, (), variables)


def _outcome(output: ReplyNotation, tools: Tools, shape: Shape | None) -> Outcome | None:
    """What the reply is held to; None when to nothing. Raises RequestError for what cannot
    be held."""
    strict = [function for function in tools.functions if function.strict]
    if shape is None and not tools.forced and not strict:
        return None
    if not tools.forced and tools.functions and output.calls_stand_bare:
        where = shape.where if shape else strict[0].where
        message = (
            f"invalid {where!r}: this model marks its calls by nothing, so text and calls cannot "
            "be told apart by a grammar; set tool_choice to 'required' or to a function"
        )
        raise RequestError(400, "structured_output_not_supported", message, where)
    allowed = [x for x in tools.functions if tools.only in ("", x.name)]
    functions = [CallableFunction(x.name, _arguments(x)) for x in allowed]
    return Outcome(shape, functions, tools.forced, tools.parallel)


def _arguments(function: Function) -> JsonShape:
    """The shape of a call's arguments, which are always an object."""
    schema = function.parameters or {}
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        message = f"invalid {function.where!r}: arguments are an object, never {kind!r}"
        raise RequestError(400, "invalid_value", message, function.where)
    # No function takes what it does not list, but small models like to write it.
    listed = "properties" in schema and not any(key in schema for key in _OPEN)
    closed = {"additionalProperties": False} if listed else {}
    return JsonShape({**closed, **schema, "type": "object"}, function.where, not function.strict)


async def shaped(
    gateway: Gateway,
    language: LanguageModel,
    parameters: SamplingParameters,
    drawn: Sampling,
    shape: Shape | None,
) -> Sampling:
    """How a text without a dialogue is drawn so that it has a shape."""
    if shape is None:
        return drawn
    return await held(gateway, language, parameters, drawn, body_grammar(shape))


async def held(
    gateway: Gateway,
    language: LanguageModel,
    parameters: SamplingParameters,
    drawn: Sampling,
    grammar: ReplyGrammar,
) -> Sampling:
    """How tokens are drawn under a grammar. Raises RequestError when it is impossible."""
    if not parameters.may_end():
        message = (
            "calls that must match a grammar end where that ends; leave out ignore_eos and "
            "min_tokens"
        )
        raise RequestError(400, "structured_output_not_supported", message, "tools")
    return replace(drawn, grammar=await gateway.grammars.check(language, grammar))


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
