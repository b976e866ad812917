"""Notations of model families, for templates from which none can be derived.

The same families as those of mlx-lm's tool parsers (``mlx_lm/tool_parsers``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from pomona.models.chat_notation import notation_of_template
from pomona_gateway.parsers.notation import (
    INDEX_SLOT,
    CallNotation,
    FieldNotation,
    ReplyNotation,
)

HERMES = CallNotation(
    "", '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n", ""
)  # fmt: skip
"""The notation that most models know; it is taught to those whose template has none."""
QWEN_CODER = CallNotation(
    "", "<tool_call>\n<function=", ">", "\n</function>\n</tool_call>", "\n", "",
    FieldNotation("\n<parameter=", ">\n", "\n</parameter>"), "tagged",
)  # fmt: skip
GLM = CallNotation(
    "", "<tool_call>", "", "\n</tool_call>", "\n", "",
    FieldNotation("\n<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>"), "tagged",
)  # fmt: skip
LONGCAT = CallNotation(
    "", "<longcat_tool_call>", "", "\n</longcat_tool_call>", "\n", "",
    FieldNotation(
        "\n<longcat_arg_key>",
        "</longcat_arg_key>\n<longcat_arg_value>",
        "</longcat_arg_value>",
    ),
    "tagged",
)  # fmt: skip
MINIMAX_M2 = CallNotation(
    "<minimax:tool_call>", '\n<invoke name="', '">', "\n</invoke>", "", "\n</minimax:tool_call>",
    FieldNotation('\n<parameter name="', '">', "</parameter>"), "tagged",
)  # fmt: skip
DSML = CallNotation(
    "<｜DSML｜function_calls>", '\n<｜DSML｜invoke name="', '">', "\n</｜DSML｜invoke>", "",
    "\n</｜DSML｜function_calls>",
    FieldNotation(
        '\n<｜DSML｜parameter name="', '" string="true">', "</｜DSML｜parameter>",
        '" string="false">',
    ),
    "tagged",
)  # fmt: skip
MINICPM = CallNotation(
    "", '<function name="', '">', "</function>", "\n", "",
    FieldNotation('<param name="', '">', "</param>"), "tagged",
)  # fmt: skip
MISTRAL_LIST = CallNotation(
    "[TOOL_CALLS][", '{"name": "', '", "arguments": ', "}", ", ", "]"
)  # fmt: skip
MISTRAL_ARGS = CallNotation("", "[TOOL_CALLS]", "[ARGS]", "", "", "")
LLAMA = CallNotation(
    "", '{"name": "', '", "parameters": ', "}", None, "", optional_marks=("<|python_tag|>",)
)  # fmt: skip
DEEPSEEK = CallNotation(
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
    "", "<｜tool▁calls▁end｜>",
)  # fmt: skip
DEEPSEEK_FENCED = CallNotation(
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n",
    "\n```<｜tool▁call▁end｜>", "\n", "<｜tool▁calls▁end｜>",
)  # fmt: skip
KIMI_K2 = CallNotation(
    "<|tool_calls_section_begin|>", "<|tool_call_begin|>functions.",
    f":{INDEX_SLOT}<|tool_call_argument_begin|>", "<|tool_call_end|>", "",
    "<|tool_calls_section_end|>",
)  # fmt: skip
GEMMA4 = CallNotation(
    "", "<|tool_call>call:", "", "<tool_call|>", "", "", style="relaxed", string_mark='<|"|>'
)  # fmt: skip
FUNCTION_GEMMA = CallNotation(
    "", "<start_function_call>call:", "", "<end_function_call>", "", "",
    style="relaxed", string_mark="<escape>",
)  # fmt: skip
LFM2 = CallNotation(
    "<|tool_call_start|>[", "", "", "", ", ", "]<|tool_call_end|>", style="keywords"
)  # fmt: skip
GRANITE_LIST = CallNotation(
    "<|tool_call|>[", '{"name": "', '", "arguments": ', "}", ", ", "]"
)  # fmt: skip
COMMAND = CallNotation(
    "<|START_ACTION|>[\n    ",
    f'{{"tool_call_id": "{INDEX_SLOT}", "tool_name": "', '", "parameters": ', "}",
    ",\n    ", "\n]<|END_ACTION|>",
)  # fmt: skip
LISTED = CallNotation("[", '{"name": "', '", "arguments": ', "}", ", ", "]")
"""A bare list, which templates like Hammer's show in their instructions."""
GLM_4 = CallNotation("", "", "\n", "", "\n", "")
"""A name, and the arguments on the next line."""
HARMONY = CallNotation(
    "", "<|channel|>commentary to=functions.", " <|constrain|>json<|message|>", "", None, ""
)
"""The form of calls that grammars write in the Harmony format."""

_CALLS = {
    "minimax": MINIMAX_M2,
    "gemma": GEMMA4,
    "function_gemma": FUNCTION_GEMMA,
    "longcat": LONGCAT,
    "dsml": DSML,
    "glm": GLM,
    "xml": QWEN_CODER,
    "kimi": KIMI_K2,
    "minicpm": MINICPM,
    "json": HERMES,
    "mistral": MISTRAL_LIST,
    "deepseek": DEEPSEEK,
    "command": COMMAND,
    "llama": LLAMA,
    "pythonic": LFM2,
    "granite": GRANITE_LIST,
    "glm4": GLM_4,
    "list": LISTED,
}
_VARIANTS = (("mistral", "[ARGS]", MISTRAL_ARGS), ("deepseek", "```json", DEEPSEEK_FENCED))
_REASONING = {
    "mistral": ("[THINK]", "[/THINK]"),
    "command": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "gemma": ("<|channel>thought\n", "<channel|>"),
}
_THINK = re.compile(r"<(/?)([\w:|｜]*think[\w:|｜]*)>")


def known_reasoning(template: str) -> tuple[str, str] | None:
    """Finds the marks of reasoning that a template names."""
    marks = _REASONING.get(notation_of_template(template)[1])
    if marks is not None:
        return marks
    names = [found[2] for found in _THINK.finditer(template)]
    if not names:
        return None
    name = "think" if "think" in names else max(names, key=names.count)
    return f"<{name}>", f"</{name}>"


def known_notation(template: str) -> ReplyNotation:
    """Returns the notation of the family whose signs a template has."""
    family, _ = notation_of_template(template)
    if family == "harmony":
        return ReplyNotation(harmony=True)
    variants = (own for name, sign, own in _VARIANTS if name == family and sign in template)
    calls = next(variants, _CALLS.get(family))
    return ReplyNotation(reasoning=known_reasoning(template), calls=calls)


def with_vocabulary(notation: ReplyNotation, special: Collection[str]) -> ReplyNotation:
    """Adds the notation of calls whose marks are special tokens, where the template has none.

    Templates of LFM2.5 list the tools and do not say how they are called.
    """
    if notation.calls_tools or not {"<|tool_call_start|>", "<|tool_call_end|>"} <= set(special):
        return notation
    return replace(notation, calls=LFM2)


def taught_notation(notation: ReplyNotation) -> ReplyNotation:
    """The notation of a model whose prompt teaches it calls."""
    return replace(notation, calls=HERMES, arguments_as_text=False)
