"""Grammars for the tail: what a reply must match, in llguidance's Lark, checked before use."""

from pomona_gateway.grammar.compile_check import GrammarCheck
from pomona_gateway.grammar.reply import Outcome, ReplyGrammar, body_grammar, dialogue_grammar
from pomona_gateway.grammar.shapes import ChoiceShape, JsonShape, RegexShape, Shape
from pomona_gateway.grammar.tool_calls import CallableFunction

__all__ = [
    "CallableFunction",
    "ChoiceShape",
    "GrammarCheck",
    "JsonShape",
    "Outcome",
    "RegexShape",
    "ReplyGrammar",
    "Shape",
    "body_grammar",
    "dialogue_grammar",
]
