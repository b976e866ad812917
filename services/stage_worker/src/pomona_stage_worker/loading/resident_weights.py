"""Weights that stay in memory between two epochs."""

from __future__ import annotations

from collections.abc import Set

from pomona_stage_worker.loading.loader import StageWeights


class ResidentWeights:
    """Keeps the weights of the stage that was removed last, so that the next epoch's stage of the
    same model need not read them again."""

    def __init__(self) -> None:
        self._weights: StageWeights | None = None

    def put(self, weights: StageWeights) -> None:
        """Keeps these weights instead of any others."""
        self._weights = weights

    def take(self) -> StageWeights | None:
        """Hands over the weights, which are freed with the caller's reference."""
        weights, self._weights = self._weights, None
        return weights

    def keep_only(self, sources: Set[str]) -> None:
        """Frees the weights unless their model is one of ``sources``."""
        if self._weights is not None and self._weights.source not in sources:
            self._weights = None
