"""What a chat model's text means: what it says, what it thinks, which tools it calls."""

from pomona_gateway.parsers.detection import OutputFormat, output_format
from pomona_gateway.parsers.events import (
    Part,
    ReasoningDelta,
    ReplyReader,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
)

__all__ = [
    "OutputFormat",
    "Part",
    "ReasoningDelta",
    "ReplyReader",
    "TextDelta",
    "ToolCallArguments",
    "ToolCallStart",
    "output_format",
]
