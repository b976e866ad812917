"""How models write tool calls, piece by piece: what ``tool_calls`` reads, grammars write."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldNotation:
    """Arguments one by one, strings bare: ``before`` KEY ``middle`` VALUE ``after``."""

    before: str
    middle: str
    after: str


@dataclass(frozen=True, slots=True)
class CallNotation:
    """``opening``, a call, perhaps ``between`` and another call, and so on, ``closing``.

    A call is ``head`` NAME ``middle`` ARGUMENTS ``tail``.

    Attributes:
        between: None when a reply has only one call.
        fields: how arguments are written; None for one JSON object.
    """

    opening: str
    head: str
    middle: str
    tail: str
    between: str | None
    closing: str
    fields: FieldNotation | None = None


HERMES = CallNotation(
    "<tool_call>\n", '{"name": "', '", "arguments": ', "}",
    "\n</tool_call>\n<tool_call>\n", "\n</tool_call>",
)  # fmt: skip
XML = CallNotation(
    "<tool_call>\n", "<function=", ">\n", "</function>",
    "\n</tool_call>\n<tool_call>\n", "\n</tool_call>",
    FieldNotation("<parameter=", ">\n", "\n</parameter>\n"),
)  # fmt: skip
GLM = CallNotation(
    "<tool_call>", "", "\n", "", "</tool_call>\n<tool_call>", "</tool_call>",
    FieldNotation("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
)  # fmt: skip
MISTRAL_LIST = CallNotation(
    "[TOOL_CALLS][", '{"name": "', '", "arguments": ', "}", ", ", "]"
)  # fmt: skip
MISTRAL_ARGS = CallNotation("[TOOL_CALLS]", "", "[ARGS]", "", "[TOOL_CALLS]", "")
LLAMA = CallNotation("", '{"name": "', '", "parameters": ', "}", None, "")
DEEPSEEK = CallNotation(
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
    "", "<｜tool▁calls▁end｜>",
)  # fmt: skip
DEEPSEEK_FENCED = CallNotation(
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n",
    "\n```<｜tool▁call▁end｜>", "\n", "<｜tool▁calls▁end｜>",
)  # fmt: skip
HARMONY = CallNotation(
    "", "<|channel|>commentary to=functions.", " <|constrain|>json<|message|>", "", None, ""
)
