"""Streams keep their pace beside a long prompt, whatever the number of stages: simulated."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from statistics import mean, median

import pytest

from pomona.messages.data import SampledToken, Sampling, Step, StepDone, Submit
from pomona_stage_worker.scheduling import Limits, Scheduler

STREAM_TOKENS = 5000
PROMPT = 2000
CHUNK = 125
"""An eighth of the prompt for each of two stages: how it is cut when nobody generates."""


class SimulatedPipeline:
    """Stages that serve one step at a time: a step takes 1 s, and ``per_token`` for each token
    of a chunk after the first. The head decides only when it is free, as it does in earnest."""

    def __init__(self, stages: int, per_token: float) -> None:
        self.scheduler = Scheduler(Limits(stages, context_length=9999, cache_tokens=99_999))
        self.now = 0.0
        self.moments: dict[int, list[float]] = {}
        self._stages = stages
        self._per_token = per_token
        self._free_at = [0.0] * stages
        self._under_way: deque[tuple[float, Step, float]] = deque()
        self._submitted = 0

    def submit(self, prompt: int, max_tokens: int) -> int:
        self._submitted += 1
        number = self._submitted
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        submit = Submit("submit", f"r{number}", 1, "m", "", sampling)
        self.scheduler.submit(submit, [number] * prompt, self.now)
        self.moments[number] = []
        return number

    def advance(self) -> None:
        """The head issues its next step, or the tail ends one."""
        head_free = self._free_at[0]
        planned = None
        if self.now >= head_free:
            planned = self.scheduler.next_step(self.now)
        if planned is not None:
            tokens = len(planned.tokens[0]) if planned.step.lane is None and planned.tokens else 1
            took = 1.0 + (tokens - 1) * self._per_token if planned.step.rows else 0.0
            at = self.now
            for stage, free in enumerate(self._free_at):
                at = self._free_at[stage] = max(at, free) + took
            if planned.step.rows:
                self._under_way.append((at, planned.step, took))
            return
        ends = self._under_way[0][0]
        if self.now < head_free < ends:
            self.now = head_free
            return
        self.now, step, took = self._under_way.popleft()
        sampled: list[SampledToken] = []
        for seq in step.rows if step.sample else ():
            self.moments[seq].append(self.now)
            sampled.append(SampledToken(seq, 7))
        elapsed = (int(took * 1e6),) * self._stages
        self.scheduler.step_done(
            StepDone("step_done", step.step, step.lane, tuple(sampled), elapsed)
        )

    def run_until(self, request: int, tokens: int) -> None:
        while len(self.moments[request]) < tokens:
            self.advance()


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("per_token", [0.01, 0.1])
@pytest.mark.parametrize("crowd", [False, True], ids=["lone", "crowd"])
def test_streams_keep_their_pace_beside_a_long_prompt(
    stages: int, per_token: float, crowd: bool
) -> None:
    """They come ``1 + pace`` times slower on the whole, and never wait for long; the prompt is
    read in a few times what it takes alone, also where there is but one stage."""
    pipeline = SimulatedPipeline(stages, per_token)
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
