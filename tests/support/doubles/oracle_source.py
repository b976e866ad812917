"""A source of guesses that knows the reply and is wrong now and then."""

from __future__ import annotations

from collections.abc import Sequence

from pomona_stage_worker.sampling.sampler import uniform
from pomona_stage_worker.speculation.draft import Proposal


class OracleSource:
    """Guesses the predicted reply of a request, which a test sets to the right one.

    Args:
        acceptance: share of guesses that are right.
        wrong: id to guess otherwise; it is changed if it would be right.
    """

    name = "oracle"
    guess_us = 0.0
    failure = ""
    priors = (0.6,)

    def __init__(self, acceptance: float, seed: int = 0, wrong: int = 0) -> None:
        self.acceptance = acceptance
        self.seed = seed
        self.wrong = wrong

    def drafter(
        self, seq: int, tenant: str, prompt: int, prediction: Sequence[int]
    ) -> OracleDrafter:
        return OracleDrafter(self, prompt, prediction)


class OracleDrafter:
    offers = 0

    def __init__(self, source: OracleSource, prompt: int, prediction: Sequence[int]) -> None:
        self._source = source
        self._prompt = prompt
        self._reply = prediction

    def propose(self, tokens: Sequence[int], guesses: Sequence[int], count: int) -> list[Proposal]:
        first = len(tokens) + len(guesses) - self._prompt
        known = range(first, min(first + count, len(self._reply)))
        return [Proposal(self._guess(index), OracleSource.name) for index in known]

    def missed(self) -> None: ...

    def close(self) -> None: ...

    def _guess(self, index: int) -> int:
        right, source = self._reply[index], self._source
        if uniform(source.seed + sum(self._reply), index) < source.acceptance:
            return right
        return source.wrong if source.wrong != right else source.wrong + 1
