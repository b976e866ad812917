"""What a chat model's text means: what it says, what it thinks, which tools it calls."""

from pomona_gateway.parsers.detection import OutputFormat, output_format
from pomona_gateway.parsers.events import Arguments, Called, OutputParser, Part, Said, Thought

__all__ = [
    "Arguments",
    "Called",
    "OutputFormat",
    "OutputParser",
    "Part",
    "Said",
    "Thought",
    "output_format",
]
