"""Sampling state of a sequence on the tail: next index, token counts, grammar."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pomona.messages.cache_ops import Open
from pomona.messages.pipeline import FinishReason
from pomona.messages.sampling import Sampling
from pomona_stage_worker.sampling.tail_results import SamplerOutput, TokenResult, token_result


class Constraint(Protocol):
    """Restricts the next token, given the tokens before it."""

    def allowed(self) -> NDArray[np.bool_]:
        """Returns the mask of ids allowed next, bool (vocabulary,); at least one is True."""
        ...

    def accept(self, token: int) -> None:
        """Advances by a sampled token."""
        ...


@dataclass(slots=True)
class SequenceSampler:
    """Sampling state of one sequence.

    Attributes:
        opened: the op that opened the sequence.
        index: index of the next token in the reply.
        prompt: ids of the prompt; empty unless a penalty needs them.
        reply: count of each id in the reply; empty unless a penalty needs them.
        constraint: the grammar that the reply must match, if any.
    """

    opened: Open
    index: int
    prompt: frozenset[int]
    reply: Counter[int] = field(default_factory=Counter[int])
    constraint: Constraint | None = None

    @classmethod
    def from_open(cls, op: Open, constraint: Constraint | None = None) -> SequenceSampler:
        split = len(op.history) - op.replied
        return cls(
            op,
            op.index,
            frozenset(op.history[:split]),
            Counter(op.history[split:]),
            constraint,
        )

    @property
    def sampling(self) -> Sampling:
        return self.opened.sampling

    def accept(self, output: SamplerOutput) -> TokenResult:
        """Advances by a sampled token, and finishes the reply at a stop id or at max_tokens."""
        sampling = self.sampling
        index = self.index
        self.index += 1
        if needs_history(sampling):
            self.reply[output.token] += 1
        if self.constraint is not None:
            self.constraint.accept(output.token)
        finish: FinishReason | None = None
        if output.token in sampling.stop_ids and self.index > sampling.min_tokens:
            finish = "stop"
        elif self.index >= sampling.max_tokens:
            finish = "length"
        return token_result(self.opened, index, output, finish)


def needs_history(sampling: Sampling) -> bool:
    """Returns True if a penalty or a grammar depends on earlier tokens."""
    return (
        bool(sampling.grammar)
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )
