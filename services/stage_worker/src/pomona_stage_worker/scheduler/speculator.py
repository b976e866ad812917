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
COSTLY_TRIAL = 16
"""Costly guesses of a request that are compared in a row although sending them does not pay."""
COSTLY_REST = 128
"""Tokens of a reply for which no costly source is asked after that."""


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
        unused: why sources that could be there are not used, by name.
    """

    def __init__(
        self, limits: SchedulerLimits, sources: AbstractSequence[DraftSource], enabled: bool
    ) -> None:
        self.counts = SpeculationCounts()
        self.accepted_by_source: dict[str, int] = {}
        self.policy = DepthPolicy(limits.stages)
        self.max_width = limits.max_width
        self._stages = limits.stages
        self._limits = limits
        self._is_enabled = enabled
        self._sources = list(sources)
        self.unused: dict[str, str] = {}
        self._off = _reason_off(limits, sources, enabled)
        self.can_guess = not self._off
        self._rates: dict[tuple[str, int], float] = {}
        for source in sources:
            self._add_rates(source)

    def add_source(self, source: DraftSource) -> None:
        """Adds a source that is asked after all others, for the sequences from now on."""
        self._sources.append(source)
        self._add_rates(source)
        self.unused.pop(source.name, None)
        self._off = _reason_off(self._limits, self._sources, self._is_enabled)
        self.can_guess = not self._off

    def status(self) -> SpeculationStatus:
        """Returns the counters, for the beacon."""
        counts = self.counts
        return SpeculationStatus(
            off=self._off,
            drafted=counts.drafted,
            accepted=counts.accepted,
            tokens_per_round=round(counts.tokens / max(counts.rounds, 1), 3) or 1.0,
            sources=dict(self.accepted_by_source),
            unused=self._unused() if self.can_guess else {},
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
        guess_us = self._guess_us(proposal)
        rate = self._rate(sequence, proposal)
        return self.policy.choose(rate, most, self.max_width, guess_us)

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
            self._rest(sequence, proposal, was_sent=issued > 0)
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
            if draft.asked_at == (length, draft.offers):
                return
            offers = draft.offers
            guesses = [proposal.token for proposal in draft.chain]
            missing = count - len(guesses)
            is_resting = sequence.reply_length < draft.rest_until
            for source, drafter in zip(self._sources, draft.drafters, strict=False):
                if is_resting and source.guess_us:
                    continue
                found = drafter.propose(sequence.tokens, guesses, missing)
                if found:
                    draft.chain.extend(found)
                    break
            else:
                draft.asked_at = length, offers

    def _add_rates(self, source: DraftSource) -> None:
        self._rates |= {(source.name, n): prior for n, prior in enumerate(source.priors)}

    def _unused(self) -> dict[str, str]:
        """Returns why sources are not used, or no more."""
        failed = {source.name: source.failure for source in self._sources if source.failure}
        return self.unused | failed

    def _guess_us(self, proposal: Proposal) -> float:
        return max((x.guess_us for x in self._sources if x.name == proposal.source), default=0.0)

    def _rest(self, sequence: Sequence, proposal: Proposal, was_sent: bool) -> None:
        """Lets costly sources rest when their guesses are compared but not worth sending."""
        draft = sequence.draft
        if was_sent or not self._guess_us(proposal):
            draft.unworthy = 0
            return
        draft.unworthy += 1
        if draft.unworthy >= COSTLY_TRIAL:
            draft.unworthy = 0
            draft.rest_until = sequence.reply_length + COSTLY_REST

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
