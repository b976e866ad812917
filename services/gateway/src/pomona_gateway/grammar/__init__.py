"""Grammars for the tail: what a reply must match, in llguidance's Lark, checked before use."""

from pomona_gateway.grammar.calls import CallableFunction
from pomona_gateway.grammar.check import GrammarCheck
from pomona_gateway.grammar.reply import Outcome, ReplyGrammar, body_grammar, dialogue_grammar
from pomona_gateway.grammar.shapes import ChoiceShape, JsonShape, RegexShape, Shape

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
