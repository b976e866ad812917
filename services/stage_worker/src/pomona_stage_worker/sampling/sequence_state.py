"""What the tail remembers of each sequence, and what it has drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pomona.messages.cache_ops import Open
from pomona.messages.pipeline import FinishReason, Token
from pomona.messages.sampling import Sampling
from pomona_stage_worker.sampling.sampled_tensors import SampledToken


class Constraint(Protocol):
    """What the next token may be, as far as the tokens before it allow."""

    def allowed(self) -> NDArray[np.bool_]:
        """For each id of the vocabulary whether it may come next; at least one may."""
        ...

    def accept(self, token: int) -> None:
        """A token was drawn."""
        ...


@dataclass(slots=True)
class SequenceSampler:
    """A sequence as the tail sees it.

    Attributes:
        opened: the op that began it.
        index: of the next token.
        prompt: ids of the prompt, kept only when a penalty needs them.
        reply: how often each id stands in the reply, kept likewise.
        constraint: what the reply must match, if anything.
    """

    opened: Open
    index: int
    prompt: frozenset[int]
    reply: Counter[int] = field(default_factory=Counter[int])
    constraint: Constraint | None = None

    @classmethod
    def begin(cls, op: Open, constraint: Constraint | None = None) -> SequenceSampler:
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

    def accept(self, drawn: SamplerOutput) -> Result:
        """Take in a drawn token: it counts, and may be the last one."""
        sampling = self.sampling
        index = self.index
        self.index += 1
        if needs_history(sampling):
            self.reply[drawn.token] += 1
        if self.constraint is not None:
            self.constraint.accept(drawn.token)
        finish: FinishReason | None = None
        if drawn.token in sampling.stop_ids and self.index > sampling.min_tokens:
            finish = "stop"
        elif self.index >= sampling.max_tokens:
            finish = "length"
        op = self.opened
        return Result(
            op.reply,
            SampledToken(op.seq, drawn.token, finish),
            Token(op.request, op.attempt, index, drawn.token, finish, drawn.logprob, drawn.top),
        )


@dataclass(frozen=True, slots=True)
class SamplerOutput:
    """A drawn token; ``logprob`` and ``top`` only when the request asks for them."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A token as the head hears of it, and as the gateway at ``reply`` does."""

    reply: str
    sampled: SampledToken
    token: Token


def needs_history(sampling: Sampling) -> bool:
    """Whether a penalty or a grammar looks at the tokens so far."""
    return (
        bool(sampling.grammar)
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )
