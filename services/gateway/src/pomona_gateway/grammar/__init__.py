"""Grammars that constrain replies, in llguidance's Lark, compiled before use."""

from pomona_gateway.grammar.compile_check import GrammarChecker
from pomona_gateway.grammar.json_escaped import json_escaped
from pomona_gateway.grammar.lark import regex_grammar
from pomona_gateway.grammar.reply import Outcome, ReplyGrammar, body_grammar, dialogue_grammar
from pomona_gateway.grammar.shapes import ChoiceShape, GrammarShape, JsonShape, RegexShape, Shape
from pomona_gateway.grammar.supported_schema import SchemaLimits, supported_schema
from pomona_gateway.grammar.tool_calls import CallableFunction

__all__ = [
    "CallableFunction",
    "ChoiceShape",
    "GrammarChecker",
    "GrammarShape",
    "JsonShape",
    "Outcome",
    "RegexShape",
    "ReplyGrammar",
    "SchemaLimits",
    "Shape",
    "body_grammar",
    "dialogue_grammar",
    "json_escaped",
    "regex_grammar",
    "supported_schema",
]
