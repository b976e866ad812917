"""Tool definitions and tool choices in OpenAI's form, and their common meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pomona.errors import RequestError
from pomona_gateway.generation.chat import Function, Tools
from pomona_gateway.http.common.chat_messages import FunctionName
from pomona_gateway.http.request_body import Body, Rule, absent_or, any_of, present_and

MAX_TOOLS = 128


class FunctionDefinition(Body):
    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=65536)] | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments."""
    strict: bool | None = None
    """Make every call match the schema."""


class ToolDefinition(Body):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    name: FunctionName


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


ToolDefinitions = Annotated[list[ToolDefinition], Field(fail_fast=True, max_length=MAX_TOOLS)]
ToolChoice = Literal["auto", "none", "required"] | NamedTool

NEEDS_TOOLS = "it needs at least one tool in 'tools'"
CHOICE_NEEDS_TOOLS = Rule(
    ("tool_choice",),
    lambda body: body.tool_choice in (None, "auto", "none") or bool(body.tools),
    any_of(
        absent_or("tool_choice", {"enum": [None, "auto", "none"]}),
        present_and("tools", {"type": "array", "minItems": 1}),
    ),
    NEEDS_TOOLS,
)


def openai_tools(
    tools: list[ToolDefinition] | None, choice: ToolChoice | None, parallel: bool | None
) -> Tools:
    """Returns the tools of a request in OpenAI's form.

    Raises RequestError when ``choice`` names a function that is not among them.
    """
    functions = [
        Function(
            tool.function.name,
            tool.function.description,
            tool.function.parameters,
            f"tools[{index}].function.parameters",
            bool(tool.function.strict),
        )
        for index, tool in enumerate(tools or [])
    ]
    name = choice.function.name if isinstance(choice, NamedTool) else ""
    mode = "named" if isinstance(choice, NamedTool) else choice
    return choose_tools(functions, mode, name, parallel is not False, "tool_choice.function.name")


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

    Raises RequestError when ``name`` is not among the functions.
    """
    if mode == "named" and all(function.name != name for function in functions):
        raise RequestError(
            400, "invalid_value", f"invalid {where!r}: there is no tool {name!r}", where
        )
    if mode == "none" or not functions:
        return Tools(parallel=parallel)
    if mode == "named":
        # A named function is called once, whatever `parallel` says.
        return Tools(tuple(functions), parallel=False, forced=True, only=name)
    return Tools(tuple(functions), parallel, forced=mode == "required")
