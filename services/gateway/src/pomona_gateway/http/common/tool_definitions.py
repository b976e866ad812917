"""Tool definitions and tool choices in OpenAI's dialects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, StringConstraints, Tag

from pomona_gateway.http.common.chat_messages import FunctionName
from pomona_gateway.http.common.content import type_of
from pomona_gateway.http.request_body import Body, Rule, absent_or, any_of, present_and

MAX_TOOLS = 4096

Description = Annotated[str, StringConstraints(max_length=1 << 20)]
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
"""Parameters of a function that declares none."""

_HINTS = frozenset(
    {
        "cache_control",
        "defer_loading",
        "allowed_callers",
        "input_examples",
        "returns",
        "eager_input_streaming",
    }
)


class FunctionDefinition(Body):
    hints = _HINTS

    name: FunctionName
    description: Description | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments. Without it the function takes none."""
    strict: bool | None = None
    """Make every call match the schema."""


class NestedFunction(Body):
    hints = _HINTS

    type: Literal["function"] = "function"
    function: FunctionDefinition


class FlatFunction(FunctionDefinition):
    """The form of the Responses API."""

    type: Literal["function"] = "function"


class InputFormat(Body):
    type: Literal["text", "grammar"] = "text"
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None
    grammar: FormatGrammar | None = None


class FormatGrammar(Body):
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class CustomDefinition(Body):
    hints = _HINTS

    name: FunctionName
    description: Description | None = None
    format: InputFormat | None = None
    """A text, or a text in a grammar."""


class NestedCustomTool(Body):
    hints = _HINTS

    type: Literal["custom"]
    custom: CustomDefinition


class FlatCustomTool(CustomDefinition):
    """The form of the Responses API."""

    type: Literal["custom"]


class ServerTool(Body):
    """A tool that a provider's server would run, like ``web_search``. It is left out."""

    left_out = True

    type: str


def _tool_kind(tool: Any) -> str:
    tool_type = type_of(tool, "function")
    if tool_type not in ("function", "custom", "namespace"):
        return "server"
    if tool_type == "namespace":
        return tool_type
    nested = (
        tool_type in cast("Mapping[str, Any]", tool)
        if isinstance(tool, dict)
        else hasattr(tool, tool_type)
    )
    return f"nested_{tool_type}" if nested else f"flat_{tool_type}"


_Tool = (
    Annotated[NestedFunction, Tag("nested_function")]
    | Annotated[FlatFunction, Tag("flat_function")]
    | Annotated[NestedCustomTool, Tag("nested_custom")]
    | Annotated[FlatCustomTool, Tag("flat_custom")]
    | Annotated[ServerTool, Tag("server")]
)


class NamespaceTool(Body):
    """Several tools under one name. Its tools are tools of the request."""

    hints = frozenset({"name", "description"})

    type: Literal["namespace"]
    tools: Annotated[
        list[Annotated[_Tool, Discriminator(_tool_kind)]],
        Field(fail_fast=True, max_length=MAX_TOOLS),
    ]


AnyTool = (
    NestedFunction | FlatFunction | NestedCustomTool | FlatCustomTool | ServerTool | NamespaceTool
)
Tool = Annotated[
    _Tool | Annotated[NamespaceTool, Tag("namespace")],
    Discriminator(_tool_kind),
]
ToolDefinitions = Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)]


class NamedFunction(Body):
    name: FunctionName


class AllowedTools(Body):
    mode: Literal["auto", "required"] | None = None
    tools: list[ToolReference]


class ToolReference(Body):
    """Names a tool: ``{"type": "function", "name": ...}``, or with the name in ``function``."""

    hints = frozenset({"server_label"})

    type: str | None = None
    name: FunctionName | None = None
    function: NamedFunction | None = None
    custom: NamedFunction | None = None

    @property
    def tool_name(self) -> str:
        """Returns the name; empty for a tool that has only a type."""
        inner = self.function or self.custom
        return inner.name if inner else self.name or ""


class ToolChoiceObject(ToolReference):
    """One tool to call, or the tools that may be called."""

    mode: Literal["auto", "required"] | None = None
    tools: list[ToolReference] | None = None
    allowed_tools: AllowedTools | None = None

    @property
    def plain_mode(self) -> Literal["auto", "none", "required", "any"] | None:
        """Returns the mode of ``{"type": "auto"}`` and its like, which names no tool."""
        if self.tool_name or self.tools or self.allowed_tools:
            return None
        match self.type:
            case "auto" | "none" | "required" | "any":
                return self.type
            case _:
                return None


ToolChoice = Literal["auto", "none", "required", "any"] | ToolChoiceObject

NEEDS_TOOLS = "it needs at least one tool in 'tools'"
CHOICE_NEEDS_TOOLS = Rule(
    ("tool_choice",),
    lambda body: (
        body.tool_choice in (None, "auto", "none")
        or bool(body.tools)
        or bool(getattr(body, "functions", None))
    ),
    any_of(
        absent_or("tool_choice", {"enum": [None, "auto", "none"]}),
        present_and("tools", {"type": "array", "minItems": 1}),
        present_and("functions", {"type": "array", "minItems": 1}),
    ),
    NEEDS_TOOLS,
)
