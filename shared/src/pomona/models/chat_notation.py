"""Detects a model's notation of tool calls and of reasoning from its chat template."""

from __future__ import annotations

_HARMONY = "<|channel|>"
_TOOLS = (
    (_HARMONY, "harmony"),
    ("<function=", "xml"),
    ("<arg_key>", "glm"),
    ("<|tool_calls_section_begin|>", "kimi"),
    ("<｜tool▁calls▁begin｜>", "deepseek"),
    ("[TOOL_CALLS]", "mistral"),
    ("<tool_call>", "json"),
    ("<|python_tag|>", "llama"),
    ("<|eom_id|>", "llama"),
    ("[TOOL_CALL", "pythonic"),
)
_REASONING = (
    (_HARMONY, "harmony"),
    ("<think>", "think"),
    ("</think>", "think"),
    ("[THINK]", "mistral"),
    ("reasoning_content", "think"),
)


def notation_of_template(template: str) -> tuple[str, str]:
    """Names of the notation of tool calls and of that of reasoning; empty when it has none."""
    return _first(_TOOLS, template), _first(_REASONING, template)


def _first(table: tuple[tuple[str, str], ...], template: str) -> str:
    return next((name for mark, name in table if mark in template), "")
