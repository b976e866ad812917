"""The last hour of a cluster's figures, for charts. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Any

from pomona.cluster_report import ClusterReport
from pomona.messages.control import SpeculationStatus

INTERVAL_S = 5.0
SAMPLES = 720
"""Samples that are kept: an hour."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures of one moment. None where there is no measurement.

    Attributes:
        at: Unix time in seconds.
        tokens_per_second: output rate of all pipelines.
        users: running requests of all gateways.
        waiting: requests queued at the heads.
        first_token_s: mean time to first token since the sample before, of this gateway's requests.
        acceptance: share of guessed tokens that were right since the sample before, 0 to 1.
        cache_use: share of the KV caches in use, of the tightest pipeline, 0 to 1.
    """

    at: float
    tokens_per_second: float
    users: int
    waiting: int
    first_token_s: float | None
    acceptance: float | None
    cache_use: float


FIELDS = tuple(field.name for field in fields(Sample))


class History:
    """Samples of the last hour, oldest first.

    Attributes:
        added: number of samples ever added.
    """

    def __init__(self) -> None:
        self.added = 0
        self._samples: deque[tuple[Any, ...]] = deque(maxlen=SAMPLES)
        self._first_tokens = 0, 0.0
        self._guesses = 0, 0

    def add(
        self,
        report: ClusterReport,
        first_tokens: tuple[int, float],
        cache_use: float,
        now: float,
    ) -> None:
        """Adds a sample.

        Args:
            first_tokens: number of first tokens so far, and the sum of their times in seconds.
            cache_use: as in :class:`Sample`.
            now: Unix time in seconds.
        """
        count, seconds = (a - b for a, b in zip(first_tokens, self._first_tokens, strict=True))
        self._first_tokens = first_tokens
        sample = Sample(
            at=round(now, 1),
            tokens_per_second=report.tokens_per_second,
            users=report.users,
            waiting=sum(worker.waiting for worker in report.workers),
            first_token_s=round(seconds / count, 4) if count > 0 else None,
            acceptance=self._acceptance(pipeline.speculation for pipeline in report.pipelines),
            cache_use=round(cache_use, 4),
        )
        self._samples.append(astuple(sample))
        self.added += 1

    def _acceptance(self, statuses: Iterable[SpeculationStatus | None]) -> float | None:
        known = [status for status in statuses if status is not None]
        drafted, accepted = sum(x.drafted for x in known), sum(x.accepted for x in known)
        before, self._guesses = self._guesses, (drafted, accepted)
        # A new epoch counts from zero.
        if drafted <= before[0] or accepted < before[1]:
            return None
        return round((accepted - before[1]) / (drafted - before[0]), 4)

    def after(self, number: int) -> list[tuple[Any, ...]]:
        """Returns the kept samples after the first ``number`` that were added."""
        return list(self._samples)[max(0, len(self._samples) - (self.added - number)) :]
