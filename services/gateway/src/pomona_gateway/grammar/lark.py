"""Writes grammars in llguidance's Lark
(https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

from pomona_gateway.grammar.json_schema import json_rule
from pomona_gateway.grammar.shapes import ChoiceShape, GrammarShape, JsonShape, RegexShape, Shape


class LarkWriter:
    """Collects the rules of one grammar. Its methods return expressions.

    Args:
        special: ids of the special tokens, by name. A grammar's text never matches a special
            token, so a mark that is one is written as its id.

    Attributes:
        shapes: shapes in the grammar, to find the shape at fault when it does not compile.
    """

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        names = sorted(special, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._rules: list[str] = []
        self._any_object = ""
        self.shapes: list[Shape] = []

    def text(self, text: str) -> str:
        """Matches exactly this text, which may contain names of special tokens."""
        out: list[str] = []
        at = 0
        for found in self._marks.finditer(text):
            out += [_literal(text[at : found.start()]), f"<[{self._special[found[0]]}]>"]
            at = found.end()
        return " ".join(x for x in [*out, _literal(text[at:])] if x)

    def pattern(self, pattern: str) -> str:
        """Text that a regular expression matches."""
        return self._rule(f"/{pattern}/")

    def until(self, mark: str, pattern: str = "") -> str:
        """Matches text up to the first mark, and the mark.

        Args:
            pattern: regular expression for the text; any text when empty.
        """
        text = f"/{pattern}/" if pattern else "TEXT"
        if self._marks.match(mark):
            return f"{self._rule(text) if pattern else text} {self.text(mark)}"
        return self._rule(f"{text} {self.text(mark)}", "[lazy]")

    def until_pattern(self, pattern: str) -> str:
        """Matches any text up to the first match of a pattern, and that match."""
        return self._rule(f"TEXT /{pattern.replace('/', chr(92) + '/')}/", "[lazy]")

    def special_names(self, literals: Iterable[str]) -> list[str]:
        """Returns the names of the special tokens that literals contain."""
        found = (name for literal in literals for name in self._marks.findall(literal))
        return list(dict.fromkeys(name for name in found if name))

    def shape(self, shape: Shape) -> str:
        """Matches a client's shape, and records it in ``shapes``."""
        self.shapes.append(shape)
        match shape:
            case JsonShape():
                return self._rule(json_rule(shape))
            case RegexShape(pattern=pattern):
                return self._rule(f"/{regex_to_lark(pattern)}/")
            case ChoiceShape(texts=texts):
                return self._rule(" | ".join(_literal(text) for text in texts))
            case GrammarShape(source=source):
                return self._rule(f"%lark {{\n{_lark_source(source)}\n}}")

    def any_object(self) -> str:
        """Matches any JSON object."""
        if not self._any_object:
            self._any_object = self._rule('%json {"type": "object"}')
        return self._any_object

    def nested(self, source: str) -> str:
        """Matches a grammar that was checked by itself before."""
        return self._rule(f"%lark {{\n{source}\n}}")

    def grammar(self, start: str) -> str:
        """Returns the whole grammar, with ``start`` as its first expression."""
        fixed = ["%llguidance {}", f"start: {start}", r"TEXT: /(.|\n)*/", r"GAP: /[ \n]{0,4}/"]
        return "\n".join([*fixed, *self._rules, ""])

    def _rule(self, expression: str, options: str = "") -> str:
        name = f"rule_{len(self._rules)}"
        self._rules.append(f"{name}{options}: {expression}")
        return name


def regex_grammar(pattern: str) -> str:
    """Returns a grammar in Lark for the texts that a regular expression matches as a whole."""
    return f"start: /{regex_to_lark(pattern)}/"


def _lark_source(source: str) -> str:
    """Returns a client's grammar in Lark. A grammar that is not valid is returned as it is, for
    the compiler to reject."""
    try:
        return any_to_lark(source)
    except (ValueError, GbnfToLarkError):
        return source


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""
