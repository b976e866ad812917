"""Writes grammars in llguidance's Lark
(https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark

from pomona_gateway.grammar.shapes import ChoiceShape, JsonShape, RegexShape, Shape

SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line, as models write it most. Where any space is allowed, small models write
nothing else for ever."""


class LarkWriter:
    """Collects the rules of one grammar; its methods give expressions for them.

    Args:
        special: ids of the special tokens by name. Inside of text a grammar never allows
            them, so a mark that is one is written as its id.
    """

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        names = sorted(special, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._rules: list[str] = []
        self.shapes: list[Shape] = []

    def text(self, text: str) -> str:
        """Exactly this text, which may hold names of special tokens."""
        out: list[str] = []
        at = 0
        for found in self._marks.finditer(text):
            out += [_literal(text[at : found.start()]), f"<[{self._special[found[0]]}]>"]
            at = found.end()
        return " ".join(x for x in [*out, _literal(text[at:])] if x)

    def pattern(self, pattern: str) -> str:
        """Text that a regular expression matches."""
        return self._rule(f"/{pattern}/")

    def until(self, mark: str) -> str:
        """Any text up to and with the first mark."""
        if self._marks.match(mark):
            return f"TEXT {self.text(mark)}"
        return self._rule(f"TEXT {self.text(mark)}", "[lazy]")

    def shape(self, shape: Shape) -> str:
        """What a client asked for. It is noted, to name it if it turns out impossible."""
        self.shapes.append(shape)
        match shape:
            case JsonShape():
                return self._rule(f"%json {json.dumps(guided(shape))}")
            case RegexShape(pattern=pattern):
                return self._rule(f"/{regex_to_lark(pattern)}/")
            case ChoiceShape(texts=texts):
                return self._rule(" | ".join(_literal(text) for text in texts))

    def grammar(self, start: str) -> str:
        """All of it."""
        fixed = ["%llguidance {}", f"start: {start}", r"TEXT: /(.|\n)*/", r"GAP: /[ \n]{0,4}/"]
        return "\n".join([*fixed, *self._rules, ""])

    def _rule(self, expression: str, options: str = "") -> str:
        name = f"rule_{len(self._rules)}"
        self._rules.append(f"{name}{options}: {expression}")
        return name


def guided(shape: JsonShape) -> dict[str, Any]:
    """The schema with what llguidance is told beside it."""
    return {**shape.schema, "x-guidance": {**SPACING, "lenient": shape.lenient}}


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""
