"""Speed of one user whose tokens are guessed.

The formula is that of ``pomona_stage_worker.speculation.depth``, which explains it; the head
decides by measured times.
"""

from __future__ import annotations

from collections.abc import Sequence

USUAL_ACCEPTANCE = 0.6
"""Share of right guesses of a draft model before it has guessed."""
MAX_ACCEPTANCE = 0.985


def guessed_tokens_per_second(
    stages: Sequence[float], links: Sequence[float], acceptance: float, guess_s: float = 0.0
) -> float:
    """Computes the tokens per second of one user with the best number of guesses in flight.

    Args:
        stages, links: time of each for one token, seconds.
        acceptance: probability that a guess is right.
        guess_s: time of a guess of the draft model, seconds, which the head also spends.
    """
    whole = sum(stages) + sum(links)
    best = 1 / whole
    if len(stages) < 2:
        return best
    rate = min(acceptance, MAX_ACCEPTANCE)
    right = rate / (1 - rate)
    head = stages[0] + guess_s
    before_tail = max(head, *stages[1:-1]) if len(stages) > 2 else head
    for depth in range(2, len(stages) + 1):
        slot = max(head, *stages[1:], whole / depth)
        late = min(max(depth * before_tail - whole, 0.0), before_tail)
        best = max(best, (1 + right) / (whole + right * slot + late))
    return best
