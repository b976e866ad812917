"""Tells which notation of tool calls and of reasoning a model uses, by the signs that its chat
template has.

The gateway derives a notation by rendering the template; it uses these families where none can
be derived.
"""

from __future__ import annotations

_HARMONY = ("<|channel|>", "<|message|>")
_TOOLS = (
    (_HARMONY, "harmony"),
    (("<minimax:tool_call>",), "minimax"),
    (("<|tool_call>", "<tool_call|>"), "gemma"),
    (("<start_function_call>",), "function_gemma"),
    (("<longcat_tool_call>",), "longcat"),
    (("｜DSML｜",), "dsml"),
    (("<arg_key>",), "glm"),
    (("<function=",), "xml"),
    (("<|tool_calls_section_begin|>",), "kimi"),
    (('<function name="', '<param name="'), "minicpm"),
    (("<｜tool▁calls▁begin｜>",), "deepseek"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<tool_call>",), "json"),
    (("<|START_ACTION|>",), "command"),
    (("<|python_tag|>",), "llama"),
    (("<|tool_call_start|>",), "pythonic"),
    (("<|tool_list_start|>",), "pythonic"),
    (("[TOOL_CALL",), "pythonic"),
    (("<|tool_call|>",), "granite"),
    (("<|eom_id|>",), "llama"),
    (("[gMASK]", "metadata"), "glm4"),
    (("tools", '{"name": "', '"arguments": {'), "list"),
)
_REASONING = (
    (_HARMONY, "harmony"),
    (("<think>",), "think"),
    (("</think>",), "think"),
    (("[THINK]",), "mistral"),
    (("<|START_THINKING|>",), "command"),
    (("<|channel>", "<channel|>"), "gemma"),
    (("reasoning_content",), "think"),
)


def notation_of_template(template: str) -> tuple[str, str]:
    """Names of the notation of tool calls and of that of reasoning; empty when it has none."""
    return _first(_TOOLS, template), _first(_REASONING, template)


def _first(table: tuple[tuple[tuple[str, ...], str], ...], template: str) -> str:
    return next((name for signs, name in table if all(x in template for x in signs)), "")
