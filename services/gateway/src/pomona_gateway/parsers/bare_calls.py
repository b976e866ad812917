"""Finds calls that no mark begins: an object, a list, a name and an object, or a Python call."""

from __future__ import annotations

import re

from pomona_gateway.parsers.events import Schemas
from pomona_gateway.parsers.notation import ReplyNotation

_FENCED = re.compile(r"```\w*\s*[\[{]")
_FENCE_BEGIN = re.compile(r"`{1,2}|```\w*\s*")
_CALL_BEGIN = re.compile(
    r"(?:\[\s*)?\{\s*(?:\"(?:\w*(?:\"\s*(?::\s*(?:\"[^\"{}]*(?:\"\s*(?:,\s*(?:\"\w*(?:\"\s*(?::\s*"
    r"(?:\"[^\"{}]*)?)?)?)?)?)?)?)?)?)?)?\Z|\[\s*[\w.-]*\Z"
)
"""The beginning of a call that no mark begins."""


class BareCalls:
    """Finds the calls of the tools in a notation whose calls stand bare.

    Args:
        schemas: parameter schemas by tool name.
    """

    def __init__(self, notation: ReplyNotation, schemas: Schemas) -> None:
        assert notation.calls is not None
        self._names = tuple(schemas)
        names = "|".join(re.escape(name) for name in schemas)
        kind = r'(?:"type"\s*:\s*"function"\s*,\s*)?'
        if notation.calls.style == "keywords":
            late = rf"\[\s*(?:{names})\("
        else:
            late = rf'(?:\[\s*)?\{{\s*{kind}"(?:name|function)"\s*:\s*"(?:{names})"\s*,'
        self._late = re.compile(late) if names else None
        named = rf"(?:{names})\s*\{{" if names and notation.names_first else r"(?!)"
        self._named = re.compile(named)
        self._names_first = notation.names_first

    def begin(self, text: str) -> bool | None:
        """Tells whether a reply that begins with ``text`` may begin with a call; None while more
        text is needed."""
        if text[0] in "{[" or _FENCED.match(text) or self._named.match(text):
            return True
        if _FENCE_BEGIN.fullmatch(text):
            return None
        word = text.rstrip()
        waits = self._names_first and any(name.startswith(word) for name in self._names)
        return None if waits else False

    def late(self, text: str, start: int, final: bool) -> tuple[int, bool] | None:
        """Finds a call behind text. Returns its place, and whether it is certain."""
        if self._late is None:
            return None
        found = self._late.search(text, start)
        if found is not None:
            return found.start(), True
        begin = None if final else _CALL_BEGIN.search(text, start)
        return (begin.start(), False) if begin is not None else None
