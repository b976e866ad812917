"""Which notation a model uses, told from its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pomona_gateway.parsers.call_stream import (
    DEEPSEEK_FORM,
    GLM_FORM,
    NAMED_FORM,
    OBJECT_FORM,
    XML_FORM,
)
from pomona_gateway.parsers.events import ReplyReader
from pomona_gateway.parsers.harmony import MARKS as HARMONY_MARKS
from pomona_gateway.parsers.harmony import HarmonyParser
from pomona_gateway.parsers.notations import (
    DEEPSEEK,
    DEEPSEEK_FENCED,
    GLM,
    HERMES,
    LLAMA,
    MISTRAL_ARGS,
    MISTRAL_LIST,
    XML,
)
from pomona_gateway.parsers.tagged import CallMarks, TaggedParser
from pomona_gateway.parsers.tool_calls import (
    read_deepseek_calls,
    read_glm_call,
    read_json_call,
    read_mistral_calls,
    read_xml_call,
)

_DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_THINK = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_CALLS = (
    (("<function=",), CallMarks("<tool_call>", "</tool_call>", XML_FORM, read_xml_call, XML)),
    (("<arg_key>",), CallMarks("<tool_call>", "</tool_call>", GLM_FORM, read_glm_call, GLM)),
    (
        ("<tool_call>",),
        CallMarks("<tool_call>", "</tool_call>", OBJECT_FORM, read_json_call, HERMES),
    ),
    (
        ("[TOOL_CALLS]", "[ARGS]"),
        CallMarks("[TOOL_CALLS]", "", NAMED_FORM, read_mistral_calls, MISTRAL_ARGS),
    ),
    (
        ("[TOOL_CALLS]",),
        CallMarks("[TOOL_CALLS]", "", OBJECT_FORM, read_mistral_calls, MISTRAL_LIST),
    ),
    (
        ("<|python_tag|>",),
        CallMarks("<|python_tag|>", "", OBJECT_FORM, read_json_call, LLAMA, bare=True),
    ),
    (
        (_DEEPSEEK[0], "```json"),
        CallMarks(*_DEEPSEEK, DEEPSEEK_FORM, read_deepseek_calls, DEEPSEEK_FENCED),
    ),
    ((_DEEPSEEK[0],), CallMarks(*_DEEPSEEK, DEEPSEEK_FORM, read_deepseek_calls, DEEPSEEK)),
    (
        ("<|eom_id|>",),
        CallMarks("<|python_tag|>", "", OBJECT_FORM, read_json_call, LLAMA, bare=True),
    ),
)
_INNER = ("[ARGS]", "[CALL_ID]", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")
_INNER_TEXT = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "</parameter>")

TAUGHT_CALLS = CallMarks("<tool_call>", "</tool_call>", OBJECT_FORM, read_json_call, HERMES)
"""The notation most models know."""


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """How a model marks reasoning and tool calls. ``calls`` None: it cannot call tools."""

    harmony: bool = False
    thought: tuple[str, str] | None = None
    calls: CallMarks | None = None

    def marks(self, tools: bool) -> frozenset[str]:
        """Special tokens that must stay visible in the text for the parser; ``tools``:
        whether calls are read."""
        if self.harmony:
            return frozenset(HARMONY_MARKS)
        read = self.calls if tools else None
        calls = (read.open, read.close, *_INNER, *_INNER_TEXT) if read else ()
        return frozenset({*(self.thought or ()), *calls} - {""})

    @property
    def calls_tools(self) -> bool:
        return self.harmony or self.calls is not None

    def parser(self, tools: Mapping[str, Mapping[str, Any]] | None, prompt: str) -> ReplyReader:
        """A parser for one reply.

        Args:
            tools: parameter schemas by tool name; None when no tool may be called.
            prompt: the rendered prompt, which may have opened the reasoning.
        """
        if self.harmony:
            return HarmonyParser()
        calls = None if tools is None else self.calls
        return TaggedParser(self.thought, calls, tools or {}, self.opened(prompt))

    def opened(self, prompt: str) -> bool:
        """Whether the rendered prompt already opened the reasoning."""
        return self.thought is not None and prompt.rstrip().endswith(self.thought[0])

    def taught(self) -> OutputFormat:
        """As it is when a prompt teaches calls to a model whose template does not."""
        return replace(self, calls=TAUGHT_CALLS)


def output_format(template: str) -> OutputFormat:
    """The notation that a chat template teaches its model."""
    if "<|channel|>" in template and "<|message|>" in template:
        return OutputFormat(harmony=True)
    thought = next(
        (marks for marks in _THINK if marks[0] in template or marks[1] in template), None
    )
    calls = next(
        (marks for signs, marks in _CALLS if all(sign in template for sign in signs)), None
    )
    return OutputFormat(thought=thought, calls=calls)
