"""Constrains replies: decides what a grammar must hold, writes it, and compiles it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from pomona.errors import RequestError
from pomona.messages.sampling import Sampling
from pomona_gateway.gateway import Gateway
from pomona_gateway.generation.chat import Function, Tools
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
from pomona_gateway.http.common.sampling_parameters import SamplingParameters
from pomona_gateway.http.ignored import IgnoredParameters
from pomona_gateway.parsers import ReplyNotation
from pomona_gateway.tenant import current_tenant
from pomona_gateway.text import LanguageModel

_OPEN_KEYWORDS = (
    "patternProperties", "$ref", "anyOf", "oneOf", "allOf", "if", "dependentSchemas",
)  # fmt: skip
"""A schema with one of these allows more arguments than its ``properties``."""


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
    """Returns a shape that a grammar can express. Unchecked parts are noted in
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


async def constrain_chat(
    gateway: Gateway,
    language: LanguageModel,
    parameters: SamplingParameters,
    sampling: Sampling,
    reply: tuple[ReplyNotation, bool, Outcome],
    ignored: IgnoredParameters,
) -> Sampling:
    """Adds the grammar of a reply.

    A grammar only for the inputs of custom tools that a reply may call is left out when it cannot
    be used; the tools' descriptions still have theirs.

    Args:
        reply: the notation, whether the prompt opened the reasoning, and what may follow it.
    """
    output, opened, outcome = reply
    outcome = await _supported_outcome(gateway, language, outcome, ignored)
    optional = outcome.only_inputs
    if optional and not any(function.input_grammar for function in outcome.functions):
        return sampling
    for part in (outcome.shape, *(x.arguments for x in outcome.functions if not x.free)):
        if part is not None:
            gateway.grammars.check_size(part)
    if output.calls is not None and output.calls.writes_strings_bare:
        for function in outcome.functions:
            _name_formats(function, ignored)
    special = language.tokenizer.special_tokens
    grammar = dialogue_grammar(output, opened, special, outcome)
    try:
        return await _with_grammar(gateway, language, parameters, sampling, grammar)
    except RequestError as error:
        if not optional or error.status >= 500:
            raise
    for function in outcome.functions:
        if function.input_grammar:
            ignored.add(f"{function.arguments.where}.format")
    return sampling


def _name_formats(function: CallableFunction, ignored: IgnoredParameters) -> None:
    """Notes the formats of strings that are not checked because the model writes them bare."""
    properties = function.arguments.schema.get("properties")
    if function.free or not isinstance(properties, dict):
        return
    for key, own in cast("dict[str, Any]", properties).items():
        if isinstance(own, dict) and "format" in own and cast("Any", own).get("type") == "string":
            ignored.add(f"{function.arguments.where}.properties.{key}.format")


async def _supported_outcome(
    gateway: Gateway, language: LanguageModel, outcome: Outcome, ignored: IgnoredParameters
) -> Outcome:
    shape = outcome.shape and supported_shape(gateway, outcome.shape, ignored)
    functions: list[CallableFunction] = []
    for function in outcome.functions:
        if function.free:
            functions.append(function)
            continue
        arguments = supported_shape(gateway, function.arguments, ignored)
        assert isinstance(arguments, JsonShape)
        source = function.input_grammar
        if source and not await _compiles(gateway, language, source, arguments.where):
            # The tool's description still has it.
            ignored.add(f"{arguments.where}.format")
            source = ""
        free = outcome.only_inputs and not source
        functions.append(replace(function, arguments=arguments, input_grammar=source, free=free))
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


def chat_constraint(output: ReplyNotation, tools: Tools, shape: Shape | None) -> Outcome | None:
    """Returns what the grammar of a reply must allow; None when no grammar is needed.

    Raises RequestError when the model's notation cannot be constrained.
    """
    strict = any(function.strict for function in tools.functions)
    held = strict or any(function.input_grammar for function in tools.functions)
    if shape is None and not tools.forced and not held:
        return None
    if output.calls is not None and output.calls.style == "mlx_lm" and tools.functions:
        if not tools.forced and shape is None:
            return None
        message = (
            f"this model's tool calls are read by mlx-lm's parser {output.calls.parser!r}, which "
            "says nothing of how to write them; a call cannot be required, nor a shape beside tools"
        )
        raise RequestError(400, "structured_output_not_supported", message, "tool_choice")
    only_inputs = shape is None and not tools.forced and not strict
    allowed = [x for x in tools.functions if tools.only in ("", x.name)]
    functions = [
        CallableFunction(
            x.name,
            _arguments_shape(x),
            x.input_grammar,
            INPUT,
            free=only_inputs and not x.input_grammar,
        )
        for x in allowed
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
