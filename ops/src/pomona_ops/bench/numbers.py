"""Statistics of measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile; ``share`` is from 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def rate(moments: Sequence[float]) -> float:
    """Tokens per second between the first and the last token."""
    return (len(moments) - 1) / (moments[-1] - moments[0])


def total_rate(streams: Sequence[Sequence[float]]) -> float:
    """Tokens per second of several streams together, while all are running.

    Raises ValueError when there is no such time.
    """
    begin = max(moments[0] for moments in streams)
    end = min(moments[-1] for moments in streams)
    if end <= begin:
        raise ValueError(f"{len(streams)} streams never overlap; raise the number of tokens")
    tokens = sum(1 for moments in streams for moment in moments if begin < moment <= end)
    return tokens / (end - begin)
