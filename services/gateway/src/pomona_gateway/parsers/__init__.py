"""Reads chat models' replies: the answer, the reasoning, the tool calls."""

from pomona_gateway.parsers.derivation.known_notations import known_notation, taught_notation
from pomona_gateway.parsers.events import (
    Part,
    ReasoningDelta,
    ReplyReader,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
)
from pomona_gateway.parsers.notation import ReplyNotation
from pomona_gateway.parsers.replies import read_replies, reply_reader
from pomona_gateway.parsers.written_calls import written_calls

__all__ = [
    "Part",
    "ReasoningDelta",
    "ReplyNotation",
    "ReplyReader",
    "TextDelta",
    "ToolCallArguments",
    "ToolCallStart",
    "known_notation",
    "read_replies",
    "reply_reader",
    "taught_notation",
    "written_calls",
]
