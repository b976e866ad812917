"""Fit of the decode times to published speeds, and its cross-validation.

The fit minimises the mean Huber loss of the logarithm of predicted over measured speed: quadratic
for errors below ``OUTLIER``, linear above, so that one slow engine does not move all parameters. A
small penalty keeps what the rows do not tell at the value of full attention and 4 bits. The fit
changes one parameter at a time by a factor that shrinks until it has no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

from pomona_ops.bench.published import Comparable
from pomona_planner.cluster.decode_times import DecodeTimes

OUTLIER = 0.15
FIRST_STEP, LAST_STEP = 0.2, 0.005
BOUNDS = {
    "achieved": (0.5, 0.95),
    "achieved_ultra": (0.5, 0.95),
    "layer_us": (10.0, 500.0),
    "latent_us": (10.0, 500.0),
    "linear_us": (10.0, 500.0),
    "sliding_us": (10.0, 500.0),
    "experts_us": (1.0, 500.0),
    "ultra_layers": (1.0, 2.5),
    "older_layers": (1.0, 2.5),
    "bandwidth_8bit": (0.7, 1.3),
    "bandwidth_16bit": (0.7, 1.3),
}
"""Least and largest value of each parameter. No chip reads faster than 0.95 of its nominal figure,
and the small kernels of an Ultra or an older chip are not faster than those of a newer Max."""
START = DecodeTimes(
    achieved=0.85,
    achieved_ultra=0.85,
    layer_us=50.0,
    latent_us=50.0,
    linear_us=50.0,
    sliding_us=50.0,
    experts_us=50.0,
    ultra_layers=1.0,
    older_layers=1.0,
    bandwidth_8bit=1.0,
    bandwidth_16bit=1.0,
)
"""Start of the fit, which assumes no difference between layers, chips or weights."""
PULL = 3e-4
"""Weight of the squared logarithm by which a kind of attention differs from full attention, and a
width of weights from 4 bits. It decides where few rows tell."""


def fit(rows: Sequence[Comparable], start: DecodeTimes = START) -> DecodeTimes:
    """Returns the decode times with the least loss that is found from ``start``."""
    best, loss, step = start, _loss(rows, start), FIRST_STEP
    while step >= LAST_STEP:
        improved = False
        for name, (least, most) in BOUNDS.items():
            for factor in (1 + step, 1 / (1 + step)):
                value = min(max(getattr(best, name) * factor, least), most)
                tried = replace(best, **{name: value})
                tried_loss = _loss(rows, tried)
                if tried_loss < loss:
                    best, loss, improved = tried, tried_loss, True
        if not improved:
            step /= 2
    return best


def cross_validation_errors(rows: Sequence[Comparable], fitted: DecodeTimes) -> list[float]:
    """Returns each row's error when all rows of its model are left out of the fit.

    Args:
        fitted: to all rows; the other fits start from it.
    """
    errors: list[float] = []
    for name in dict.fromkeys(row.facts.name for row in rows):
        times = fit([row for row in rows if row.facts.name != name], fitted)
        errors += [row.error(times) for row in rows if row.facts.name == name]
    return errors


def _loss(rows: Sequence[Comparable], times: DecodeTimes) -> float:
    errors = sum(_huber(log(1 + row.error(times))) for row in rows) / len(rows)
    kernels = [times.latent_us, times.linear_us, times.sliding_us]
    ratios = [value / times.layer_us for value in kernels]
    ratios += [times.bandwidth_8bit, times.bandwidth_16bit]
    return errors + PULL * sum(log(ratio) ** 2 for ratio in ratios)


def _huber(error: float) -> float:
    size = abs(error)
    return size**2 if size < OUTLIER else OUTLIER * (2 * size - OUTLIER)
