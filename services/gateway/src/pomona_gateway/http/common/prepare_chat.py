"""Prepares a chat: prompt, sampling, grammar, and the notation to parse the reply with."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pomona.errors import RequestError
from pomona.messages.sampling import Sampling
from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.chat import ChatCompletion, Function, Tools
from pomona_gateway.generation.completion import Completion
from pomona_gateway.grammar import (
    CallableFunction,
    GrammarShape,
    JsonShape,
    Outcome,
    ReplyGrammar,
    SchemaLimits,
    Shape,
    body_grammar,
    dialogue_grammar,
    json_escaped,
    supported_schema,
)
from pomona_gateway.grammar.schema_errors import depth
from pomona_gateway.http.common.chat_messages import INPUT
from pomona_gateway.http.common.reasoning import (
    ReasoningWish,
    reasoning_variables,
    template_reads,
)
from pomona_gateway.http.common.sampling_parameters import SamplingParameters, build_sampling
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.parsers import ReplyNotation, taught_notation
from pomona_gateway.tenant import current_tenant
from pomona_gateway.text import LanguageModel
from pomona_gateway.text.conversation import calls_as_text
from pomona_gateway.text.prompts import (
    chat_prompt,
    supports_tools,
    with_tool_instructions,
)

_OPEN_KEYWORDS = (
    "patternProperties", "$ref", "anyOf", "oneOf", "allOf", "if", "dependentSchemas",
)  # fmt: skip
"""A schema with one of these allows more arguments than its ``properties``."""


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
    text, prompt = await render_prompt(
        language, messages, tools, variables, continue_final, prompt_parameter
    )
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
    outcome = _constraint(output, tools, shape)
    if outcome is not None:
        outcome = await _supported_outcome(gateway, language, outcome, ignored)
        for part in (outcome.shape, *(function.arguments for function in outcome.functions)):
            if part is not None:
                gateway.grammars.check_size(part)
        special = language.tokenizer.special_tokens
        grammar = dialogue_grammar(output, opened, special, outcome)
        sampling = await _with_grammar(gateway, language, parameters, sampling, grammar)
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
) -> tuple[str, array[int]]:
    """Returns the prompt as text and as token ids.

    If ``continue_final``, it ends inside the last message.

    If the model's template does not support tools, the prompt explains them to the model.
    """
    if supports_tools(language):
        return await chat_prompt(
            language, messages, tools.definitions, variables, continue_final, parameter
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


async def constrain_text(
    gateway: Gateway,
    language: LanguageModel,
    parameters: SamplingParameters,
    sampling: Sampling,
    shape: Shape | None,
    ignored: IgnoredParameters,
) -> Sampling:
    """Adds the grammar of a shape to the sampling of a text completion."""
    if shape is None:
        return sampling
    shape = supported_shape(gateway, shape, ignored)
    gateway.grammars.check_size(shape)
    return await _with_grammar(gateway, language, parameters, sampling, body_grammar(shape))


def supported_shape(gateway: Gateway, shape: Shape, ignored: IgnoredParameters) -> Shape:
    """Returns a shape that a grammar can express. The parts that it does not check are noted in
    ``ignored``."""
    if not isinstance(shape, JsonShape):
        return shape
    settings = gateway.settings
    gateway.grammars.check_size(shape)
    if depth(shape.schema) > settings.max_schema_depth:
        return shape  # Compiling it reports this.
    limits = SchemaLimits(settings.default_max_string, settings.default_max_items)
    schema, unchecked = supported_schema(shape.schema, limits)
    for path in unchecked:
        ignored.add(f"{shape.where}{path}")
    return replace(shape, schema=schema)


async def _supported_outcome(
    gateway: Gateway, language: LanguageModel, outcome: Outcome, ignored: IgnoredParameters
) -> Outcome:
    shape = outcome.shape and supported_shape(gateway, outcome.shape, ignored)
    functions: list[CallableFunction] = []
    for function in outcome.functions:
        arguments = supported_shape(gateway, function.arguments, ignored)
        assert isinstance(arguments, JsonShape)
        source = function.input_grammar
        if source and not await _compiles(gateway, language, source, arguments.where):
            # The tool's description still has it.
            ignored.add(f"{arguments.where}.format")
            source = ""
        functions.append(replace(function, arguments=arguments, input_grammar=source))
    return replace(outcome, shape=shape, functions=functions)


async def _compiles(gateway: Gateway, language: LanguageModel, source: str, where: str) -> bool:
    """Returns whether a custom tool's grammar can constrain its input."""
    try:
        for text in (source, json_escaped(source)):
            grammar = GrammarShape(text, where)
            gateway.grammars.check_size(grammar)
            await gateway.grammars.check(language, body_grammar(grammar), current_tenant())
    except (ValueError, RequestError) as error:
        if isinstance(error, RequestError) and error.status >= 500:
            raise
        return False
    return True


async def _with_grammar(
    gateway: Gateway,
    language: LanguageModel,
    parameters: SamplingParameters,
    sampling: Sampling,
    grammar: ReplyGrammar,
) -> Sampling:
    """Compiles the grammar and adds it. Raises RequestError when it cannot be used."""
    if not parameters.may_end():
        message = (
            "a reply under a grammar ends where the grammar ends; leave out ignore_eos and "
            "min_tokens"
        )
        raise RequestError(400, "structured_output_not_supported", message, "tools")
    compiled = await gateway.grammars.check(language, grammar, current_tenant())
    return replace(sampling, grammar=compiled)


def _constraint(output: ReplyNotation, tools: Tools, shape: Shape | None) -> Outcome | None:
    """Returns what the grammar of a reply must allow; None when no grammar is needed.

    Raises RequestError when the model's notation cannot be constrained.
    """
    strict = [function for function in tools.functions if function.strict]
    if shape is None and not tools.forced and not strict:
        return None
    if not tools.forced and tools.functions and output.calls_stand_bare:
        where = shape.where if shape else strict[0].where
        message = (
            f"invalid {where!r}: this model's tool calls begin without a mark, so a grammar "
            "cannot tell them from text; set tool_choice to 'required' or to a function"
        )
        raise RequestError(400, "structured_output_not_supported", message, where)
    allowed = [x for x in tools.functions if tools.only in ("", x.name)]
    functions = [
        CallableFunction(x.name, _arguments_shape(x), x.input_grammar, INPUT) for x in allowed
    ]
    return Outcome(shape, functions, tools.forced, tools.parallel)


def _arguments_shape(function: Function) -> JsonShape:
    """Returns the shape of a call's arguments, which are always an object."""
    schema = function.parameters or {}
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        message = f"invalid {function.where!r}: arguments must be an object, not {kind!r}"
        raise RequestError(400, "invalid_value", message, function.where)
    # Small models like to invent arguments, so a schema that lists some allows no others.
    closed = "properties" in schema and not any(key in schema for key in _OPEN_KEYWORDS)
    extra = {"additionalProperties": False} if closed else {}
    return JsonShape({**extra, **schema, "type": "object"}, function.where, not function.strict)
