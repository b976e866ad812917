"""Logprobs of prompt tokens, computed on the tail from each prefill chunk."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from pomona.messages.cache_ops import Close, Fork, Open
from pomona.messages.pipeline import Step
from pomona_stage_worker.sampling.logprobs import token_logprobs
from pomona_stage_worker.sampling.tail_results import PromptResult, prompt_logprobs_result


@dataclass(slots=True)
class _Prompt:
    """A prompt during prefill. ``position`` counts its tokens that are in the caches."""

    opened: Open
    ids: tuple[int, ...]
    position: int = 0


class PromptLogprobs:
    """Tracks the prompts whose logprobs are requested, and only those.

    The logits at token i score token i + 1, which may be in the next chunk. The op that opens the
    sequence therefore carries the whole prompt.
    """

    def __init__(self) -> None:
        self._prompts: dict[int, _Prompt] = {}

    def apply(self, op: object) -> None:
        """Applies an op of a step; ops come in their order."""
        if isinstance(op, Open):
            ids = op.history[: len(op.history) - op.replied]
            if op.sampling.prompt_logprobs is not None and op.scored < len(ids) - 1:
                self._prompts[op.seq] = _Prompt(op, ids)
        elif isinstance(op, Fork) and op.seq in self._prompts:
            self._prompts[op.seq].position = op.length
        elif isinstance(op, Close):
            self._prompts.pop(op.seq, None)

    def needs_logits(self, step: Step) -> bool:
        """Returns True if the step needs the logits of all positions."""
        return step.lane is None and step.rows[0] in self._prompts

    def score_chunk(self, step: Step, logits: mx.array) -> PromptResult | None:
        """Scores a prefill chunk. Returns None if the gateway has all of its logprobs.

        Args:
            logits: (1, length, vocabulary), any float dtype.
        """
        prompt = self._prompts[step.rows[0]]
        op = prompt.opened
        start, stop = prompt.position, prompt.position + logits.shape[1]
        prompt.position = stop
        first, last = max(start, op.scored), min(stop, len(prompt.ids) - 1)
        if first >= last:
            return None
        targets = mx.array(prompt.ids[first + 1 : last + 1])
        rows = logits[0, first - start : last - start].astype(mx.float32)
        scored = token_logprobs(rows, targets, op.sampling.prompt_logprobs or 0)
        return prompt_logprobs_result(op, first, *scored)
