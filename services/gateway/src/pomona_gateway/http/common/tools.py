"""Tools as OpenAI's clients define them, and what every dialect means by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pomona.errors import RequestError
from pomona_gateway.generation.chat import Function, Tools
from pomona_gateway.http.common.chat_messages import FunctionName
from pomona_gateway.http.request_body import Body, Rule, either, given, unless

MAX_TOOLS = 128


class FunctionDefinition(Body):
    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=65536)] | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments."""
    strict: bool | None = None
    """Hold every call to the schema."""


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

NO_TOOLS = "there are no tools of which one could be called"
CHOICE_NEEDS_TOOLS = Rule(
    ("tool_choice",),
    lambda body: body.tool_choice in (None, "auto", "none") or bool(body.tools),
    either(
        unless("tool_choice", {"enum": [None, "auto", "none"]}),
        given("tools", {"type": "array", "minItems": 1}),
    ),
    NO_TOOLS,
)


def chosen_tools(
    tools: list[ToolDefinition] | None, choice: ToolChoice | None, parallel: bool | None
) -> Tools:
    """What the model may call. Raises RequestError for a choice that is none."""
    functions = [
        Function(
            tool.function.name,
            tool.function.description,
            tool.function.parameters,
            f"tools[{place}].function.parameters",
            bool(tool.function.strict),
        )
        for place, tool in enumerate(tools or [])
    ]
    named = choice.function.name if isinstance(choice, NamedTool) else ""
    word = "named" if isinstance(choice, NamedTool) else choice
    return offered(functions, word, named, parallel is not False, "tool_choice.function.name")


def offered(
    functions: Sequence[Function],
    choice: Literal["auto", "none", "required", "named"] | None,
    named: str,
    parallel: bool,
    where: str,
) -> Tools:
    """What the model may call, in any dialect.

    Args:
        where: the parameter that holds ``named``, the one function that must be called.

    Raises RequestError when the choice is no function of the request.
    """
    if choice == "named" and all(function.name != named for function in functions):
        message = f"invalid {where!r}: there is no tool {named!r}"
        raise RequestError(400, "invalid_value", message, where)
    if choice == "none" or not functions:
        return Tools(parallel=parallel)
    # A named function is called once, whatever `parallel` says.
    if choice == "named":
        return Tools(tuple(functions), parallel=False, forced=True, only=named)
    return Tools(tuple(functions), parallel, forced=choice == "required")
