"""Decides which guesses the head sends, and counts them.

Guesses fill idle stages: they are issued only while fewer lanes than stages run, no prompt
is prefilled and no request waits. Each request has its own rates of right guesses. While guesses
are not worth sending, they are compared with the sampled tokens all the same, which costs no step;
so a text that begins to repeat itself is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass

from pomona.messages.control import SpeculationStatus
from pomona_stage_worker.scheduler.limits import SchedulerLimits
from pomona_stage_worker.scheduler.sequence import Sequence
from pomona_stage_worker.speculation.depth import DepthPolicy
from pomona_stage_worker.speculation.draft import DraftSource, Proposal

_BLEND = 0.12
"""Weight of a guess in the rates of its request."""
_COMMON_BLEND = 0.02
"""Weight of a guess in the rates with which requests begin."""


UNUSED_SOURCES = {
    "prediction heads": "this version does not load the prediction heads of a model",
    "draft model": "this version does not run a draft model",
}


@dataclass(slots=True)
class SpeculationCounts:
    """Counters since the start of the epoch.

    Attributes:
        drafts: steps with guesses.
        drafted, accepted, rejected: guessed tokens: issued, right, and wrong or after a wrong one.
        rounds, tokens: sampled tokens of single requests that could be guessed, and how many of
            them were not guessed before they were sampled.
    """

    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    rejected: int = 0
    rounds: int = 0
    tokens: int = 0


class Speculator:
    """Holds the sources of guesses and their rates.

    Args:
        sources: in the order in which they are asked.
        enabled: False turns speculation off.

    Attributes:
        can_guess: False if no step can carry a guess.
    """

    def __init__(
        self, limits: SchedulerLimits, sources: AbstractSequence[DraftSource], enabled: bool
    ) -> None:
        self.counts = SpeculationCounts()
        self.accepted_by_source: dict[str, int] = {}
        self.policy = DepthPolicy(limits.stages)
        self.max_width = limits.max_width
        self._stages = limits.stages
        self._sources = sources
        self._off = _reason_off(limits, sources, enabled)
        self.can_guess = not self._off
        self._rates = {
            (source.name, number): prior
            for source in sources
            for number, prior in enumerate(source.priors)
        }

    def status(self) -> SpeculationStatus:
        """Returns the counters, for the beacon."""
        counts = self.counts
        return SpeculationStatus(
            off=self._off,
            drafted=counts.drafted,
            accepted=counts.accepted,
            tokens_per_round=round(counts.tokens / max(counts.rounds, 1), 3) or 1.0,
            sources=dict(self.accepted_by_source),
            unused=UNUSED_SOURCES if self.can_guess else {},
        )

    def depth_and_width(self, sequence: Sequence, lanes: int) -> tuple[int, int]:
        """Returns the most steps in flight for a sequence and the tokens of its next step.

        Args:
            lanes: lanes of the pipeline; each has one row.
        """
        if not self.can_guess or not sequence.submit.speculative:
            return 1, 1
        proposal = self._first(sequence)
        if proposal is None:
            return 1, 1
        most = max(self._stages - lanes + 1, 1)
        return self.policy.choose(self._rate(sequence, proposal), most, self.max_width)

    def take(self, sequence: Sequence, count: int) -> list[int]:
        """Returns up to ``count`` guesses to issue after those in flight.

        Nothing is guessed after a token that may end the reply.
        """
        sampling, draft = sequence.submit.sampling, sequence.draft
        room = sampling.max_tokens - sequence.reply_length - 1 - draft.issued
        count = min(count, room)
        if count <= 0:
            return []
        self._fill(sequence, draft.issued + count)
        tokens: list[int] = []
        for proposal in list(draft.chain)[draft.issued : draft.issued + count]:
            if proposal.token in sampling.stop_ids:
                break
            tokens.append(proposal.token)
        draft.issued += len(tokens)
        if tokens:
            self.counts.drafts += 1
            self.counts.drafted += len(tokens)
        return tokens

    def settle(self, sequence: Sequence, token: int) -> bool:
        """Compares a sampled token, already appended, with the guess for it.

        Returns False if the guesses in flight are wrong.
        """
        draft = sequence.draft
        issued = draft.issued
        proposal = draft.settle(token)
        is_right = proposal is not None and proposal.token == token
        if proposal is not None:
            self._observe(sequence, proposal, is_right)
        self.counts.tokens += 1
        if is_right and issued:
            self.counts.accepted += 1
            source = proposal.source if proposal is not None else ""
            self.accepted_by_source[source] = self.accepted_by_source.get(source, 0) + 1
            return True
        self.counts.rounds += 1
        self.counts.rejected += issued
        return not issued

    def abandon(self, sequence: Sequence) -> None:
        """Forgets the guesses of a sequence that ends."""
        self.counts.rejected += sequence.draft.issued
        sequence.draft.reset()

    def _first(self, sequence: Sequence) -> Proposal | None:
        """Returns the first guess that is not issued yet."""
        draft = sequence.draft
        self._fill(sequence, draft.issued + 1)
        return draft.chain[draft.issued] if len(draft.chain) > draft.issued else None

    def _fill(self, sequence: Sequence, count: int) -> None:
        """Extends a chain to ``count`` guesses if a source has them."""
        draft = sequence.draft
        if draft.drafters is None:
            draft.drafters = [
                source.drafter(
                    sequence.number,
                    sequence.policy.tenant,
                    sequence.prompt_length,
                    sequence.prediction,
                )
                for source in self._sources
            ]
        while len(draft.chain) < count:
            length = len(sequence.tokens) + len(draft.chain)
            if draft.asked_at == length:
                return
            guesses = [proposal.token for proposal in draft.chain]
            missing = count - len(guesses)
            for drafter in draft.drafters:
                found = drafter.propose(sequence.tokens, guesses, missing)
                if found:
                    draft.chain.extend(found)
                    break
            else:
                draft.asked_at = length

    def _rate(self, sequence: Sequence, proposal: Proposal) -> float:
        key = proposal.source, proposal.confidence
        return sequence.draft.rates.get(key, self._rates[key])

    def _observe(self, sequence: Sequence, proposal: Proposal, is_right: bool) -> None:
        key = proposal.source, proposal.confidence
        rate = self._rate(sequence, proposal)
        sequence.draft.rates[key] = rate + _BLEND * (is_right - rate)
        self._rates[key] += _COMMON_BLEND * (is_right - self._rates[key])


def _reason_off(
    limits: SchedulerLimits, sources: AbstractSequence[DraftSource], enabled: bool
) -> str:
    """Returns why no step can carry a guess; empty if one can."""
    if not enabled:
        return "the setting POMONA_STAGE_WORKER_SPECULATION is off"
    if not sources:
        return "there is no source of guesses"
    if not limits.can_roll_back:
        return "a cache of this model cannot be restored after a wrong guess"
    if limits.stages == 1 and limits.max_width == 1:
        return (
            "a lone stage has no idle stage to fill, and a step of several tokens is not known "
            "to give the same bits as single ones here"
        )
    return ""
