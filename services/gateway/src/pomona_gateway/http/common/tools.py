"""The common meaning of tools and tool choices, in every dialect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pomona.errors import RequestError
from pomona_gateway.generation.chat import Function, Tools
from pomona_gateway.grammar import regex_grammar
from pomona_gateway.http.common.chat_messages import INPUT
from pomona_gateway.http.common.tool_definitions import (
    NO_ARGUMENTS,
    AnyTool,
    CustomDefinition,
    FlatCustomTool,
    FlatFunction,
    FunctionDefinition,
    NamespaceTool,
    NestedCustomTool,
    NestedFunction,
    ServerTool,
    ToolChoice,
    ToolChoiceObject,
    ToolReference,
)


def openai_tools(
    tools: Sequence[AnyTool] | None, choice: ToolChoice | None, parallel: bool | None
) -> Tools:
    """Returns the tools of a request in one of OpenAI's dialects.

    Raises RequestError when ``choice`` names a tool that is not among them.
    """
    functions = [
        function
        for index, tool in enumerate(tools or [])
        for function in _functions(tool, f"tools[{index}]")
    ]
    several = parallel is not False
    mode = choice.plain_mode if isinstance(choice, ToolChoiceObject) else choice
    if not isinstance(choice, ToolChoiceObject) or mode is not None:
        return choose_tools(functions, "required" if mode == "any" else mode, "", several, "")
    if choice.type == "allowed_tools":
        allowed = choice.allowed_tools
        references = allowed.tools if allowed else choice.tools or []
        allowed_mode = (allowed.mode if allowed else choice.mode) or "auto"
        return _allowed(functions, references, allowed_mode, several)
    where = "tool_choice"
    if choice.function or choice.custom:
        where += ".function.name" if choice.function else ".custom.name"
    elif choice.name is not None:
        where += ".name"
    return choose_tools(functions, "named", choice.tool_name or choice.type or "", several, where)


def _allowed(
    functions: Sequence[Function],
    references: Sequence[ToolReference],
    mode: Literal["auto", "required"],
    parallel: bool,
) -> Tools:
    """Restricts the tools to those that the choice allows."""
    names = {reference.tool_name for reference in references if reference.tool_name}
    for name in sorted(names - {function.name for function in functions}):
        raise _no_tool(name, "tool_choice.tools")
    offered = [function for function in functions if function.name in names]
    return choose_tools(offered, mode, "", parallel, "tool_choice")


def _functions(tool: AnyTool, where: str) -> Iterator[Function]:
    """Yields the functions of a tool; a custom tool is a function of one text."""
    match tool:
        case NestedFunction(function=function):
            yield make_function(function, f"{where}.function.parameters")
        case FlatFunction():
            yield make_function(tool, f"{where}.parameters")
        case NestedCustomTool(custom=custom):
            yield _custom_function(custom, f"{where}.custom")
        case FlatCustomTool():
            yield _custom_function(tool, where)
        case NamespaceTool(tools=tools):
            for index, inner in enumerate(tools):
                yield from _functions(inner, f"{where}.tools[{index}]")
        case ServerTool():
            pass


def make_function(definition: FunctionDefinition, where: str) -> Function:
    """Returns the function of a definition. Without parameters it takes no arguments."""
    return Function(
        definition.name,
        definition.description or None,
        NO_ARGUMENTS if definition.parameters is None else definition.parameters,
        where,
        bool(definition.strict),
    )


def _custom_function(tool: CustomDefinition, where: str) -> Function:
    """Returns a function with one text as its argument, described by the tool's grammar."""
    parameter: dict[str, Any] = {"type": "string"}
    description = tool.description or ""
    lark = ""
    if tool.format is not None and tool.format.type == "grammar":
        grammar = tool.format.grammar or tool.format
        syntax = "regular expression" if grammar.syntax == "regex" else "Lark grammar"
        description += f"\nThe input must match this {syntax}:\n{grammar.definition or ''}"
        if grammar.definition and grammar.syntax == "regex":
            lark = regex_grammar(grammar.definition)
        else:
            lark = grammar.definition or ""
    schema = {"type": "object", "properties": {INPUT: parameter}, "required": [INPUT]}
    return Function(tool.name, description.strip() or None, schema, where, input_grammar=lark)


def custom_names(tools: Sequence[AnyTool] | None) -> frozenset[str]:
    """Returns the names of the custom tools, whose calls have a text instead of arguments."""
    names: set[str] = set()
    for tool in tools or ():
        match tool:
            case NestedCustomTool(custom=custom):
                names.add(custom.name)
            case FlatCustomTool(name=name):
                names.add(name)
            case NamespaceTool(tools=inner):
                names |= custom_names(inner)
            case _:
                pass
    return frozenset(names)


def choose_tools(
    functions: Sequence[Function],
    mode: Literal["auto", "none", "required", "named"] | None,
    name: str,
    parallel: bool,
    where: str,
) -> Tools:
    """Applies a tool choice, in any dialect.

    Args:
        name: the function that must be called, if the mode is ``named``.
        parallel: whether a reply may have several calls.
        where: parameter that holds ``name``, for the error message.

    Raises RequestError when ``name`` is not among the functions, or when a call is required and
    there is no function that the server can offer.
    """
    if mode == "named" and all(function.name != name for function in functions):
        raise _no_tool(name, where)
    if mode == "required" and not functions:
        message = (
            "invalid 'tool_choice': it requires a call, and none of the tools can be called here; "
            "this server runs no tools of its own"
        )
        raise RequestError(400, "tool_not_found", message, "tool_choice")
    if mode == "none" or not functions:
        return Tools(parallel=parallel)
    if mode == "named":
        # A named function is called once, whatever `parallel` says.
        return Tools(tuple(functions), parallel=False, forced=True, only=name)
    return Tools(tuple(functions), parallel, forced=mode == "required")


def _no_tool(name: str, where: str) -> RequestError:
    message = (
        f"invalid {where!r}: there is no tool {name!r} that this server can offer; it runs no "
        "tools of its own, such as web search"
    )
    return RequestError(400, "tool_not_found", message, where)
