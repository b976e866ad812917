"""What the scheduler remembers of a sequence and of a lane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pomona.messages.cache_ops import Open
from pomona.messages.pipeline import Submit
from pomona_stage_worker.sampling.sequence_state import needs_history

Phase = Literal["waiting", "prefilling", "sampling", "running"]


@dataclass(slots=True)
class Sequence:
    """A request in the scheduler.

    Attributes:
        number: of the sequence in every stage's table; new whenever it is opened again.
        tokens: prompt and reply so far.
        replied: how many of ``tokens``, at their end, are the reply.
        target: tokens to compute before the next one can be drawn.
        computed: tokens whose steps were issued, so that every stage has them or will.
        phase: ``sampling`` from the last chunk until its token is back.
        origin: the kept prefix it was forked from, and how much of it.
        expires_at: when waiting ends, in seconds of the caller's clock.
        turn: when it is due; the same clock.
        scored: how many log-probabilities of the prompt the tail has told or will tell.
        stepped_at: the number of the last step of a lane that it was in.
    """

    number: int
    submit: Submit
    tokens: list[int]
    replied: int
    expires_at: float
    arrived: int
    turn: float
    target: int = 0
    computed: int = 0
    phase: Phase = "waiting"
    lane: int | None = None
    origin: tuple[int, int] | None = None
    scored: int = 0
    stepped_at: int = 0

    @property
    def key(self) -> tuple[str, int]:
        return self.submit.request, self.submit.attempt

    @property
    def reserved(self) -> int:
        """Tokens of cache that this sequence has or is about to have, in each stage."""
        return max(self.target, self.computed)

    @property
    def most(self) -> int:
        """Tokens that prompt and reply may come to."""
        return len(self.tokens) - self.replied + self.submit.sampling.max_tokens

    @property
    def unscored(self) -> bool:
        """Whether log-probabilities of the prompt are asked for that nobody has told."""
        if self.submit.sampling.prompt_logprobs is None:
            return False
        return self.scored < len(self.tokens) - self.replied - 1

    @property
    def reusable(self) -> list[int]:
        """The tokens that a kept prefix is sought for: the last one's logits are needed, and
        those from which a log-probability is to come."""
        return self.tokens[: self.scored + 1] if self.unscored else self.tokens

    def opening(self) -> Open:
        """The op that opens it in every stage."""
        submit = self.submit
        history = self.tokens if needs_history(submit.sampling) or self.unscored else ()
        return Open(
            seq=self.number,
            request=submit.request,
            attempt=submit.attempt,
            reply=submit.reply,
            sampling=submit.sampling,
            index=self.replied,
            history=tuple(history),
            replied=self.replied if history else 0,
            scored=self.scored,
        )


@dataclass(slots=True)
class Lane:
    """Rows that step together.

    Attributes:
        stepping: while a step of it is in the pipeline.
        stepped_at: the number of its last step; and when that went, in the caller's clock.
    """

    number: int
    rows: list[Sequence] = field(default_factory=list[Sequence])
    stepping: bool = False
    stepped_at: int = 0
    went_at: float = 0.0

    @property
    def served_last(self) -> list[Sequence]:
        """The rows that were in its last step, or new then: not those that came from the lane
        before since."""
        return [row for row in self.rows if row.stepped_at == self.stepped_at]


@dataclass(frozen=True, slots=True)
class InFlight:
    """A step in the pipeline: of a lane, or a chunk of one sequence."""

    lane: int | None
    seqs: tuple[int, ...]
    tokens: int
