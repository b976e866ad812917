"""Reads calls with one of mlx-lm's tool parsers, each as a whole."""

from __future__ import annotations

import json

from pomona_gateway.parsers.events import Part, Schemas, ToolCallArguments, ToolCallStart
from pomona_gateway.parsers.mlx_lm_parsers import mlx_lm_parser


class MlxLmCall:
    """Calls from after the mark that begins them, up to the mark that ends them."""

    def __init__(self, name: str, schemas: Schemas) -> None:
        self.done = self.failed = False
        self._parser = mlx_lm_parser(name)
        self._tools = [
            {"type": "function", "function": {"name": tool, "parameters": dict(schema)}}
            for tool, schema in schemas.items()
        ]

    def push(self, text: str, final: bool) -> tuple[list[Part], str]:
        parser = self._parser
        if parser is None:
            self.failed = True
            return [], text
        body, ended, rest = text.partition(parser.end) if parser.end else (text, "", "")
        if not ended and not final:
            return [], text
        calls = parser.calls(body, self._tools)
        if not calls:
            self.failed = True
            return [], text
        self.done = True
        parts: list[Part] = []
        for name, arguments in calls:
            written = json.dumps(arguments, ensure_ascii=False)
            parts += [ToolCallStart(name), ToolCallArguments(written, last=True)]
        return parts, rest
