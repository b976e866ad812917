"""Text of unknown origin, made fit for messages, logs and terminals."""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_CHARACTERS: Final = 4096
"""Maximum length of a text field in a message."""
_REPLACED = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Categories of characters that are not printed: controls, marks of direction, surrogates."""


def plain_text(text: str, most: int = MAX_CHARACTERS) -> str:
    """Returns at most ``most`` characters of a text, with U+FFFD for those that do not print.

    The result can be encoded, which a text with surrogates cannot.
    """
    return "".join(
        "\ufffd" if unicodedata.category(character) in _REPLACED else character
        for character in text[:most]
    )
