"""Streams keep their pace beside a long prompt, whatever the number of stages: simulated."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean, median

import pytest

from pomona_stage_worker.scheduler import PlannedStep
from support.doubles.timed_pipeline import TimedPipeline

STREAM_TOKENS = 5000
PROMPT = 2000
CHUNK = 125
"""An eighth of the prompt for each of two stages: how it is cut when nobody generates."""


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("per_token", [0.01, 0.1])
@pytest.mark.parametrize("crowd", [False, True], ids=["lone", "crowd"])
def test_streams_keep_their_pace_beside_a_long_prompt(
    stages: int, per_token: float, crowd: bool
) -> None:
    """They come ``1 + pace`` times slower on the whole, and never wait for long; the prompt is
    read in a few times what it takes alone, also where there is but one stage."""

    def seconds(planned: PlannedStep) -> float:
        """1, and ``per_token`` for each token of a chunk after the first."""
        return 1.0 + (len(planned.tokens[0]) - 1) * per_token

    pipeline = TimedPipeline(stages, seconds)
    streams = [pipeline.submit(8, STREAM_TOKENS) for _ in range(stages if crowd else 1)]
    pipeline.run_until(streams[-1], 40)
    idle = median(_intervals(pipeline.moments[streams[0]][20:]))
    pipeline.run_until(pipeline.submit(PROMPT, 1), 1)
    begin = pipeline.now
    pipeline.run_until(pipeline.submit(PROMPT, 1), 1)
    moments = [[m for m in pipeline.moments[stream] if m >= begin] for stream in streams]
    busy = sorted(x for of_stream in moments for x in _intervals(of_stream))
    promised = 1 + pipeline.scheduler.limits.pace
    assert mean(busy) <= 1.2 * promised * idle
    assert busy[int(0.99 * len(busy))] <= 3 * idle
    assert pipeline.now - begin <= 8 * PROMPT * (per_token + 1 / CHUNK)


def _intervals(moments: list[float]) -> list[float]:
    return [b - a for a, b in pairwise(moments)]
