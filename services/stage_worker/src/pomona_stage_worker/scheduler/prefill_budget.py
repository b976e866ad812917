"""Sizes prefill chunks so that they fit between the decode steps of running streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from math import sqrt

from pomona_stage_worker.scheduler.chunk_times import LEAST_TOKENS, ChunkTimes
from pomona_stage_worker.scheduler.limits import SchedulerLimits
from pomona_stage_worker.scheduler.sequence import Sequence

CHUNKS_PER_STAGE = 8
"""Chunks of a prompt for each stage, when no stream runs: the pipeline is then idle for an eighth
of the prefill, while it fills and drains."""
_BLEND = 0.2
"""Weight of a new measurement in the moving averages."""
_UNMEASURED_TOKENS = 32
"""Most tokens of a chunk beside streams before the costs are known."""
_MAX_TOKENS = 2.0**31
_OVERDRAFT = 1.25
"""The rest of a prompt goes at once within this multiple of the longest chunk. Another chunk
would read all weights once more and delay its first token."""


class PrefillBudget:
    """Budgets the time of prefill chunks, from the compute times that the stages report.

    A chunk of n tokens takes about ``fixed + n * per_token`` in the slowest stage. ``fixed`` is
    the time of a one-token step, which reads all weights once. A chunk is charged its estimated
    cost when it is issued, and its real cost once it is done.

    Running streams may slow down by the factor ``1 + slowdown``. A decode step that follows a
    chunk waits for it in every stage, so no chunk takes longer than ``(1 + slowdown) * fixed`` in
    one stage. While all lanes step once, a stage has ``(1 + slowdown)`` times the time of an
    undisturbed cycle, less the lanes' own steps: all chunks together get that time.

    Args:
        slowdown: fraction by which streams may slow down; 0.7 is 70%.
    """

    def __init__(self, slowdown: float) -> None:
        self._slowdown = slowdown
        self._cycle_us = 0.0
        self._fixed_us = 0.0
        self._variable_us = 0.0
        self._variable_tokens = 0.0
        self._credit_us = 0.0
        self._charged_us: deque[tuple[float | None, int]] = deque()
        self._times = ChunkTimes()

    def observe_decode(self, elapsed_us: Collection[int]) -> None:
        """Records a decode step. Args: elapsed_us: compute time of each stage."""
        self._cycle_us = _blend(self._cycle_us, sum(elapsed_us))
        self._fixed_us = _blend(self._fixed_us, max(elapsed_us))

    def observe_chunk(self, tokens: int, elapsed_us: Collection[int]) -> None:
        """Records the oldest issued chunk as done.

        The cost of a token is weighted by chunk length, and measured only once ``fixed`` is known.
        """
        took = max(elapsed_us)
        charged, end = self._charged_us.popleft()
        self._times.observe(tokens, end, took - self._fixed_us)
        if charged is not None:
            self._credit_us += charged - took
        if self._fixed_us:
            self._variable_us += max(took - self._fixed_us, 0.0) - _BLEND * self._variable_us
            self._variable_tokens += tokens - _BLEND * self._variable_tokens

    def decode_issued(self, lanes: int) -> None:
        """Credits the time that chunks may take until the lane steps again."""
        steps_us = lanes * self._fixed_us
        cycle_us = (1 + self._slowdown) * max(self._cycle_us, steps_us) - steps_us
        if lanes == 1 and cycle_us > self._longest_us:
            # A part of a chunk would still be in the first stage when the lane is back.
            cycle_us -= cycle_us % self._longest_us
        most = max(cycle_us, self._longest_us)
        self._credit_us = min(self._credit_us + cycle_us / lanes, most)

    def chunk_issued(self, tokens: int, beside_streams: bool, end: int = 0) -> None:
        """Charges a chunk; it is free when no stream runs.

        Args:
            end: context at the end of the chunk, tokens; by default the chunk alone.
        """
        cost = self._cost_us(tokens) if beside_streams else None
        self._credit_us -= cost or 0.0
        self._charged_us.append((cost, end or tokens))

    def chunk_size(self, sequence: Sequence, limits: SchedulerLimits, beside_streams: bool) -> int:
        """Returns the tokens of the next chunk of a prompt; 0 when none may be issued now."""
        if limits.deterministic:
            size = fixed_chunk(sequence, limits.block)
            return size if not beside_streams or self._can_pay(size) else 0
        left = sequence.target - sequence.computed
        prompt = sequence.target - sequence.reused
        wanted = max(limits.min_chunk, min(self._lone_chunk(prompt, limits), limits.chunk))
        most = min(left, self._allowed(wanted, sequence.computed, limits))
        if sequence.lacks_prompt_logprobs:
            most = min(most, limits.logprobs_chunk)
        return self.affordable(most, is_rest=most == left) if beside_streams else most

    def _lone_chunk(self, prompt: int, limits: SchedulerLimits) -> int:
        """Returns the tokens of a chunk with which a prompt is read fastest when no stream runs.

        k chunks of ``fixed + prompt / k * per_token`` take k + S - 1 such times in S stages, which
        is least at ``sqrt(prompt * fixed / ((S - 1) * per_token))`` tokens. Before both are
        measured, and on a CPU, whose ``fixed`` depends on what else runs, a prompt has
        CHUNKS_PER_STAGE chunks for each stage.
        """
        even = -(-prompt // (CHUNKS_PER_STAGE * limits.stages))
        if not limits.chunk_us or not self._fixed_us or not self._per_token_us:
            return even
        if limits.stages == 1:
            return prompt
        return int(sqrt(prompt * self._fixed_us / ((limits.stages - 1) * self._per_token_us)))

    def _allowed(self, tokens: int, context: int, limits: SchedulerLimits) -> int:
        """Returns how many of ``tokens`` a chunk after ``context`` may have, for its time and its
        workspace."""
        if limits.chunk_us:
            left_us = max(limits.chunk_us - self._fixed_us, 1.0)
            tokens = self._times.tokens_within(left_us, context, tokens, limits.min_chunk)
        if limits.chunk_cells:
            fitting = limits.chunk_cells // (context + tokens)
            tokens = min(tokens, max(fitting, min(tokens, LEAST_TOKENS)))
        return tokens

    def affordable(self, most: int, is_rest: bool = False) -> int:
        """Returns the tokens of a chunk that may be issued now beside running streams; 0 for none.

        A chunk under half of the longest one is not worth reading all weights for.

        Args:
            is_rest: True when ``most`` tokens complete the prompt.
        """
        if self._cycle_us == 0.0 or self._per_token_us == 0.0:
            return min(most, _UNMEASURED_TOKENS)
        if is_rest and self._cost_us(most) <= _OVERDRAFT * min(self._credit_us, self._longest_us):
            return most
        longest = max(self._tokens_in(self._longest_us), 1)
        has_full_credit = self._credit_us >= self._longest_us
        tokens = longest if has_full_credit else self._tokens_in(self._credit_us)
        return min(tokens, most) if 2 * tokens >= longest else 0

    def _can_pay(self, tokens: int) -> bool:
        """Returns whether a chunk of a given size may be issued now beside running streams."""
        if self._cycle_us == 0.0 or self._per_token_us == 0.0:
            return True
        return self._credit_us >= min(self._cost_us(tokens), self._longest_us)

    @property
    def _longest_us(self) -> float:
        return (1 + self._slowdown) * self._fixed_us

    def _tokens_in(self, us: float) -> int:
        return int(min((us - self._fixed_us) / self._per_token_us, _MAX_TOKENS))

    def _cost_us(self, tokens: int) -> float:
        return self._fixed_us + tokens * self._per_token_us

    @property
    def _per_token_us(self) -> float:
        return self._variable_us / self._variable_tokens if self._variable_tokens else 0.0


def fixed_chunk(sequence: Sequence, block: int) -> int:
    """Returns the tokens of the next chunk when sizes depend on the prompt alone.

    A chunk ends at a multiple of ``block`` or with the prompt. The tokens of a reply that is
    prefilled again go one by one, as they did when they were sampled.
    """
    left = sequence.prompt_length - sequence.computed
    return min(block - sequence.computed % block, left) if left > 0 else 1


def _blend(old: float, new: float) -> float:
    return new if old == 0.0 else old + _BLEND * (new - old)
