"""Tools as OpenAI's clients define them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from pomona.errors import RequestError
from pomona_gateway.api.body import Body
from pomona_gateway.api.messages import FunctionName
from pomona_gateway.dialogue import Tools

MAX_TOOLS = 128


class FunctionDefinition(Body):
    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=65536)] | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments."""
    strict: bool | None = None


class ToolDefinition(Body):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    name: FunctionName


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


ToolDefinitions = Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)]
ToolChoice = Literal["auto", "none", "required"] | NamedTool


def chosen_tools(
    tools: list[ToolDefinition] | None, choice: ToolChoice | None, parallel: bool | None
) -> Tools:
    """What the model may call. Raises RequestError for what needs a grammar."""
    if choice is not None and choice not in ("auto", "none"):
        refuse_grammar("tool_choice", "tool_choice 'required' or a named tool")
    for place, tool in enumerate(tools or []):
        if tool.function.strict:
            refuse_grammar(f"tools[{place}].function.strict", "strict tools")
    if choice == "none" or not tools:
        return Tools(parallel=parallel is not False)
    definitions = tuple(tool.model_dump(exclude_none=True) for tool in tools)
    return Tools(definitions, parallel is not False)


def refuse_grammar(parameter: str, what: str) -> None:
    """Raises RequestError: only a grammar on the tail could promise this."""
    message = f"{what} cannot be honoured: this server does not constrain output by a grammar yet"
    raise RequestError(400, "structured_output_not_supported", message, parameter)
