"""Patterns made of a notation's literals."""

from __future__ import annotations

import re

from pomona_gateway.parsers.notation import ID_SLOT, INDEX_SLOT, KEY_SLOT, NAME_SLOT, SLOTS

_SLOT_PATTERNS = {
    NAME_SLOT: r"[\w.:/-]+?",
    INDEX_SLOT: r"\d*",
    ID_SLOT: r"[\w.:-]*?",
    KEY_SLOT: r"[^<>\n]+?",
}
_PIECES = re.compile(rf"\s+|[{''.join(SLOTS)}]|[^\s{''.join(SLOTS)}]+")


def literal_pattern(literal: str) -> str:
    """A pattern for a literal in which white space may be more, less or none.

    It gives no white space back, so that a long run of it costs no more than its length.
    """
    out: list[str] = [r"\s*+"]
    for piece in _PIECES.findall(literal):
        if piece.isspace():
            out.append(r"\s*+")
        else:
            out.append(_SLOT_PATTERNS.get(piece) or re.escape(piece))
    return "".join(out)


def longest_partial(text: str, literals: tuple[str, ...]) -> bool:
    """Returns True when the text is a proper prefix of one of the literals."""
    return any(len(text) < len(literal) and literal.startswith(text) for literal in literals)
