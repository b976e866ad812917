"""A stage computed by the ranks of a tensor group, with the interface of any other stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, cast

import orjson

from pomona.messages.codec import Buffer
from pomona.messages.control import Pipeline
from pomona.messages.pipeline import Step, Tensor
from pomona_stage_worker.groups.rank_children import GroupError, RankChildren
from pomona_stage_worker.groups.rank_messages import (
    AskState,
    Assemble,
    CacheState,
    Done,
    Load,
    Progress,
    Ready,
    RunStep,
    Started,
    StepDigest,
)
from pomona_stage_worker.loading import Progress as ProgressCall
from pomona_stage_worker.model.mlx_stage import Computation, StepOutput
from pomona_stage_worker.model.warmup import WarmupTiming
from pomona_stage_worker.sampling.sampled_tensors import SampledToken
from pomona_stage_worker.sampling.tail_results import PromptResult, TokenResult

LOAD_DEADLINE_S: Final = 110.0
"""Longest silence of a rank while it joins and loads; the watchdog of the worker waits longer."""
WARMUP_DEADLINE_S: Final = 110.0
DECODE_DEADLINE_S: Final = 4.0
PREFILL_DEADLINE_S: Final = 8.0
"""Least deadlines of a step; the watchdog of the worker waits longer."""
EARLY_S: Final = 0.0003
"""Seconds before and after the expected end of a step in which the parent polls."""
WAKE_S: Final = 0.001
"""Shortest sleep, seconds: what is left is shorter than the timer's step."""
MAX_SPIN_S: Final = 0.002
"""Most seconds of polling."""
SLOWER: Final = 4.0
"""A step may take this many times as long as the longest one so far, a chunk by token.

The watchdog of the worker, which would end it and not only the group, permits more of the same."""


EMPTY_TABLE: Final = '{"sequences":{},"lanes":{},"branches":{},"prefixes":{}}'


class StepDeadlines:
    """Deadlines of steps, from the longest steps so far.

    Args:
        decode_s: a decode step of one sequence, by the warm-up.
    """

    def __init__(self, decode_s: float = 0.0) -> None:
        self._decode_s = decode_s
        self._token_s = decode_s

    def deadline_s(self, length: int) -> float:
        """Returns seconds for a step of ``length`` tokens a row."""
        if length == 1:
            return max(DECODE_DEADLINE_S, SLOWER * self._decode_s)
        return max(PREFILL_DEADLINE_S, SLOWER * self._token_s * length)

    def add(self, length: int, seconds: float) -> None:
        if length == 1:
            self._decode_s = max(self._decode_s, seconds)
        else:
            self._token_s = max(self._token_s, seconds / length)


def load_group(children: RankChildren, load: Load, progress: ProgressCall) -> list[int]:
    """Forms the group and lets every rank read its part.

    Args:
        progress: receives the bytes that rank 0 has loaded.

    Returns:
        Bytes of each rank's weights.

    Raises:
        GroupError: the group could not be formed, or a rank could not load.
    """
    for rank in range(children.size):
        children.receive(rank, Progress, LOAD_DEADLINE_S)
    children.spins = load.spins
    children.send(load)
    held: list[int] = []
    for rank in range(children.size):
        while True:
            report, _ = children.receive(rank, Progress, LOAD_DEADLINE_S)
            if report.is_done:
                held.append(report.done)
                break
            if rank == 0:
                progress(report.done * children.size, report.total * children.size)
    return held


class RankGroup:
    """A stage whose ranks are child processes of this one. Used by one thread.

    Every step goes to all ranks. Rank 0 answers with the results; the others with a digest of the
    sampled tokens, which is compared while the next step is computed.

    Args:
        children: ranks that have loaded.
        pipeline: plan of the epoch.
        is_tail: whether the stage ends the pipeline.
        chunk: tokens of the warm-up chunk.

    Raises:
        GroupError: a rank failed or hangs. The processes of all ranks are ended then.
    """

    max_width = 1

    def __init__(
        self, children: RankChildren, pipeline: Pipeline, is_tail: bool, chunk: int
    ) -> None:
        self._children = children
        self._is_tail = is_tail
        self._done: Done | None = None
        self._last_s = 0.0
        self._state: CacheState | None = None
        self._last_state = CacheState(EMPTY_TABLE, 0, 0)
        children.send(Assemble(pipeline, chunk))
        ready = [
            children.receive(rank, Ready, WARMUP_DEADLINE_S)[0] for rank in range(children.size)
        ]
        self.can_batch = ready[0].can_batch
        self.can_slice = ready[0].can_slice
        self.can_roll_back = ready[0].can_roll_back
        self.has_experts = ready[0].has_experts
        self.warmup = WarmupTiming(
            max(rank.decode_us for rank in ready), max(rank.tail_us for rank in ready)
        )
        self._deadlines = StepDeadlines(self.warmup.decode_us / 1e6)

    def start_step(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        self._state = None
        began = time.monotonic()
        self._children.send(RunStep(step, tuple(tensors)), buffers)
        # The last step's, while the ranks compute this one.
        self._compare_digests()
        length = tensors[0].shape[1] if tensors and step.rows else 1
        ends_at = began + self._deadlines.deadline_s(length)
        described: tuple[Tensor, ...] = ()
        if step.rows and not self._is_tail:
            left_s = ends_at - time.monotonic()
            described = self._children.receive(0, Started, left_s)[0].tensors

        def finish() -> StepOutput:
            spin_s = self._sleep_before(began) if length == 1 else 0.0
            left_s = max(ends_at - time.monotonic(), 0.0)
            self._done, buffers = self._children.receive(0, Done, left_s, spin_s)
            took_s = time.monotonic() - began
            self._deadlines.add(length, took_s)
            if length == 1:
                self._last_s = took_s
            return _output(self._done, buffers)

        return Computation(described, time.monotonic_ns(), finish, is_async=True)

    def _sleep_before(self, began: float) -> float:
        """Sleeps until shortly before a decode step will end, as the last one took.

        Returns seconds to poll from then on; a sleeping thread would wake up too late.
        """
        if not self._children.spins or not self._last_s:
            return 0.0
        left_s = began + self._last_s - EARLY_S - time.monotonic()
        if left_s >= WAKE_S:
            self._children.wait(0, left_s)
        return min(max(began + self._last_s + EARLY_S - time.monotonic(), 0.0), MAX_SPIN_S)

    def prebuild(self) -> bool:
        return False

    def table(self) -> dict[str, Any]:
        """Returns the cache table; the last one known when the group has ended, whose next step
        raises."""
        return cast("dict[str, Any]", orjson.loads(self._cache_state().table))

    def cache_bytes(self) -> int:
        """Returns the bytes of the caches of all ranks."""
        return self._cache_state().cache_bytes

    def prefix_bytes(self) -> int:
        return self._cache_state().prefix_bytes

    def _compare_digests(self) -> None:
        """Receives the other ranks' ends of the last step."""
        done, self._done = self._done, None
        if done is None:
            return
        for rank in range(1, self._children.size):
            other, _ = self._children.receive(rank, StepDigest, DECODE_DEADLINE_S)
            if (other.step, other.digest) != (done.step, done.digest):
                raise self._children.end(f"rank {rank} sampled other tokens than rank 0")

    def _cache_state(self) -> CacheState:
        """Asks all ranks once after a step. The step thread calls it when idle, outside of what
        fails an epoch, so it does not raise."""
        if self._state is None:
            try:
                self._state = self._last_state = self._ask_state()
            except GroupError:
                self._state = self._last_state
        return self._state

    def _ask_state(self) -> CacheState:
        self._compare_digests()
        self._children.send(AskState())
        states = [
            self._children.receive(rank, CacheState, PREFILL_DEADLINE_S)[0]
            for rank in range(self._children.size)
        ]
        tables = {state.table for state in states}
        if len(tables) > 1:
            raise self._children.end("the cache tables of its ranks differ")
        return CacheState(
            states[0].table,
            sum(state.cache_bytes for state in states),
            sum(state.prefix_bytes for state in states),
        )


def _output(done: Done, buffers: Sequence[Buffer]) -> StepOutput:
    results = tuple(
        TokenResult(x.reply, SampledToken(x.seq, x.token.token, x.token.finish), x.token)
        for x in done.sampled
    )
    if done.prompt is None:
        return StepOutput(tuple(buffers), results)
    first = len(buffers) - done.prompt.tensors
    message = done.prompt.body, done.tensors[first:], tuple(buffers[first:])
    return StepOutput(tuple(buffers[:first]), results, PromptResult(done.prompt.reply, message))
