"""Synthetic prompts."""

from __future__ import annotations


def made_up_prompt(length: int, salt: int = 0) -> list[int]:
    """Returns token ids of plain words, different for each salt."""
    return [1000 + (7919 * (i + 131 * salt)) % 20000 for i in range(length)]
