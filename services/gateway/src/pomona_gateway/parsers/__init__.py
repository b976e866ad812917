"""What a chat model's text means: what it says, what it thinks, which tools it calls."""

from pomona_gateway.output.formats import OutputFormat, output_format
from pomona_gateway.output.parts import Arguments, Called, OutputParser, Part, Said, Thought

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
