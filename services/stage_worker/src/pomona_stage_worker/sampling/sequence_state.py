"""Sampling state of a sequence on the tail: next index, token counts, grammar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pomona.messages.cache_ops import Open
from pomona.messages.pipeline import FinishReason, Guess
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
        last: the last sampled token; None before the first.
        on_branch: False from a wrong guess, or the end of the reply, until the next rollback.
            Steps that arrive meanwhile continue text that was not sampled.
        accepted, rejected: guesses that were right and wrong.
    """

    opened: Open
    index: int
    prompt: frozenset[int]
    reply: Counter[int] = field(default_factory=Counter[int])
    constraint: Constraint | None = None
    last: int | None = None
    on_branch: bool = True
    accepted: int = 0
    rejected: int = 0

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

    def begin_guess(self, guess: Guess, tokens: Sequence[int]) -> bool:
        """Checks the first token of a step with guesses against the last sampled one.

        Returns False if the step continues a wrong guess: it must not be sampled.
        """
        if guess.position < guess.confirmed:
            return True
        return self.follows(tokens[0], len(tokens))

    def follows(self, token: int, guesses: int) -> bool:
        """Checks a guess against the last sampled token, and counts it.

        Args:
            guesses: guesses of the step from this one on, which are wrong if it is.
        """
        if self.on_branch and token == self.last:
            self.accepted += 1
            return True
        self.on_branch = False
        self.rejected += guesses
        return False

    def rollback(self) -> None:
        """Expects steps that continue the sampled tokens again."""
        self.on_branch = True

    def accept(self, output: SamplerOutput) -> TokenResult:
        """Advances by a sampled token, and finishes the reply at a stop id or at max_tokens."""
        sampling = self.sampling
        index = self.index
        self.index += 1
        self.last = output.token
        if needs_history(sampling):
            self.reply[output.token] += 1
        if self.constraint is not None:
            self.constraint.accept(output.token)
        finish: FinishReason | None = None
        if output.token in sampling.stop_ids and self.index > sampling.min_tokens:
            finish = "stop"
        elif self.index >= sampling.max_tokens:
            finish = "length"
        if finish is not None:
            self.on_branch = False
        return token_result(
            self.opened, index, output, finish, accepted=self.accepted, rejected=self.rejected
        )


def needs_history(sampling: Sampling) -> bool:
    """Returns True if a penalty or a grammar depends on earlier tokens."""
    return (
        bool(sampling.grammar)
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )
