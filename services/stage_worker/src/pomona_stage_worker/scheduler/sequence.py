"""The scheduler's state of a sequence, a lane and a step in flight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pomona.messages.cache_ops import Open
from pomona.messages.pipeline import Submit
from pomona.queue_policy import QueuePolicy
from pomona_stage_worker.sampling.sequence_state import needs_history
from pomona_stage_worker.speculation.draft import Draft

Phase = Literal["waiting", "prefilling", "sampling", "running"]


@dataclass(slots=True)
class Sequence:
    """A request in the scheduler. Times are seconds of the caller's clock.

    Attributes:
        number: id in every stage's cache table. Each admission assigns a new one.
        policy: tenant and urgency of the request.
        tokens: prompt and reply so far.
        reply_length: number of reply tokens at the end of ``tokens``.
        expires_at: deadline for admission.
        arrival: rank among all requests that arrived.
        due_at: time at which it becomes as urgent as a request of priority 0.
        target: tokens that must be computed before the next one can be sampled.
        computed: tokens whose steps have been issued, guesses included.
        phase: ``sampling`` lasts from the last prefill chunk until its token arrives.
        lane: number of its lane while it is in one.
        origin: cached prefix it was forked from and the length reused, or None.
        scored: prompt logprobs that the tail has sent or will send for issued steps.
        last_step: number of its last decode step.
        prediction: ids that the client expects as reply.
        draft: guesses that follow ``tokens``.
    """

    number: int
    submit: Submit
    policy: QueuePolicy
    tokens: list[int]
    reply_length: int
    expires_at: float
    arrival: int
    due_at: float
    target: int = 0
    computed: int = 0
    phase: Phase = "waiting"
    lane: int | None = None
    origin: tuple[int, int] | None = None
    scored: int = 0
    last_step: int = 0
    prediction: tuple[int, ...] = ()
    draft: Draft = field(default_factory=Draft)

    @property
    def key(self) -> tuple[str, int]:
        return self.submit.request, self.submit.attempt

    @property
    def prompt_length(self) -> int:
        return len(self.tokens) - self.reply_length

    @property
    def reused(self) -> int:
        """Number of tokens taken from a cached prefix."""
        return self.origin[1] if self.origin else 0

    @property
    def reserved(self) -> int:
        """Tokens of KV cache reserved in each stage, up to its next token."""
        return max(self.target, self.computed)

    @property
    def max_length(self) -> int:
        """Upper bound on the length of prompt and reply."""
        return self.prompt_length + self.submit.sampling.max_tokens

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """True while requested logprobs of the prompt are neither sent nor in flight."""
        if self.submit.sampling.prompt_logprobs is None:
            return False
        return self.scored < self.prompt_length - 1

    @property
    def prefix_tokens(self) -> list[int]:
        """Tokens to look up in the prefix cache.

        Those whose logits are needed, for a token or a prompt logprob, have to be computed.
        """
        return self.tokens[: self.scored + 1] if self.lacks_prompt_logprobs else self.tokens

    def open_op(self) -> Open:
        """Returns the op that opens the sequence in every stage."""
        submit = self.submit
        wanted = needs_history(submit.sampling) or self.lacks_prompt_logprobs
        history = tuple(self.tokens) if wanted else ()
        return Open(
            seq=self.number,
            request=submit.request,
            attempt=submit.attempt,
            reply=submit.reply,
            sampling=submit.sampling,
            index=self.reply_length,
            history=history,
            replied=self.reply_length if history else 0,
            scored=self.scored,
        )


@dataclass(slots=True)
class Lane:
    """An in-flight micro-batch: rows that are decoded in the same steps.

    Attributes:
        steps: numbers of its steps in the pipeline, oldest first, without those that continue a
            wrong guess. More than one only while guesses are in flight.
        branch: number of rollbacks.
        last_step: number of its last step.
        stepped_at: time of its last step, seconds of the caller's clock.
    """

    number: int
    rows: list[Sequence] = field(default_factory=list[Sequence])
    steps: list[int] = field(default_factory=list[int])
    branch: int = 0
    last_step: int = 0
    stepped_at: float = 0.0

    @property
    def is_stepping(self) -> bool:
        """True while one of its steps is in the pipeline."""
        return bool(self.steps)

    @property
    def settled_rows(self) -> list[Sequence]:
        """Rows that were in its last step or are new, without those moved in since."""
        return [row for row in self.rows if row.last_step == self.last_step]


@dataclass(frozen=True, slots=True)
class InFlight:
    """A step in the pipeline: a decode step of a lane, or a prefill chunk (``lane`` is None).

    Attributes:
        guesses: number of its tokens that are guesses.
        issued_at: time of its start, seconds of the caller's clock.
        is_alone: whether no other step was in the pipeline then.
    """

    lane: int | None
    seqs: tuple[int, ...]
    tokens: int
    guesses: int = 0
    issued_at: float = 0.0
    is_alone: bool = False
