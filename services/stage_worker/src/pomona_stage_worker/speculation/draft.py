"""The guesses that follow a sequence's tokens, and the interface of what makes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Proposal:
    """One guessed token.

    Attributes:
        source: name of what guessed it.
        confidence: class of guesses of this source that are right about equally often, from 0.
    """

    token: int
    source: str
    confidence: int = 0


class Drafter(Protocol):
    """Guesses the tokens of one sequence.

    Attributes:
        offers: number of guesses that came without being asked for; when it rises, it is worth
            asking again.
    """

    @property
    def offers(self) -> int: ...

    def propose(self, tokens: Sequence[int], guesses: Sequence[int], count: int) -> list[Proposal]:
        """Returns up to ``count`` guesses that follow ``tokens`` and then ``guesses``."""
        ...

    def missed(self) -> None:
        """Takes back all guesses after the first wrong one."""
        ...

    def close(self) -> None:
        """Frees what the drafter holds, when its sequence ends."""
        ...


class DraftSource(Protocol):
    """A source of guesses for all sequences."""

    @property
    def name(self) -> str: ...

    @property
    def guess_us(self) -> float:
        """Time to make a guess beside the steps, microseconds; 0 if it costs nothing."""
        ...

    @property
    def failure(self) -> str:
        """Why there are no more guesses; empty while there may be."""
        ...

    @property
    def priors(self) -> Sequence[float]:
        """Expected share of right guesses for each confidence."""
        ...

    def drafter(self, seq: int, tenant: str, prompt: int, prediction: Sequence[int]) -> Drafter:
        """Returns the drafter of a sequence.

        Args:
            seq: number of the sequence.
            prompt: length of its prompt.
            prediction: ids that the client expects as reply; may be empty.
        """
        ...


@dataclass(slots=True)
class Draft:
    """The guesses of one sequence, oldest first.

    Attributes:
        chain: guesses that follow the sequence's tokens.
        issued: number of guesses at the start of ``chain`` whose steps have been issued.
        drafters: made at the first use, in the order in which they are asked.
        asked_at: length of tokens and chain at which no drafter had a guess, and their offers
            until then.
        rates: share of right guesses, by source and confidence.
        unworthy: costly guesses in a row that were compared, but not worth sending.
        rest_until: length of the reply up to which no costly source is asked.
    """

    chain: deque[Proposal] = field(default_factory=deque[Proposal])
    issued: int = 0
    drafters: list[Drafter] | None = None
    asked_at: tuple[int, int] = (-1, 0)
    rates: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])
    unworthy: int = 0
    rest_until: int = 0

    @property
    def offers(self) -> int:
        """Number of guesses that came without being asked for."""
        return sum(drafter.offers for drafter in self.drafters or ())

    def settle(self, token: int) -> Proposal | None:
        """Compares the oldest guess with the sampled token. A wrong guess ends the chain.

        Returns the guess that was checked, or None without one.
        """
        if not self.chain:
            return None
        proposal = self.chain.popleft()
        if proposal.token == token:
            self.issued = max(self.issued - 1, 0)
        else:
            self.clear()
        return proposal

    def reset(self) -> None:
        """Forgets all guesses and the drafters, when the sequence ends or gets new caches."""
        self.clear()
        for drafter in self.drafters or ():
            drafter.close()
        self.drafters = None

    def clear(self) -> None:
        """Forgets all guesses."""
        self.chain.clear()
        self.issued = 0
        self.asked_at = -1, 0
        for drafter in self.drafters or ():
            drafter.missed()
