"""How far a stage is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far a stage is."""

    def __call__(self, done: int, total: int, fetching: bool = False) -> None:
        """``done`` of ``total`` bytes are in memory or, while ``fetching``, on disk."""
