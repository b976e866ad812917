"""Energy and dollars of a running plan."""

from __future__ import annotations

from collections.abc import Iterable

from pomona.messages.control import Prediction
from pomona_planner.cost_model.problem import Machine

JOULES_PER_KWH = 3.6e6
SECONDS_PER_YEAR = 365.25 * 86400


def joules_per_token(
    stages: Iterable[tuple[Machine, float]], lanes: int, cycle_s: float, users: int
) -> float:
    """Computes the energy of one token over all machines of a plan.

    Each machine draws its idle power, and its busy power while one of the lanes is in its stage.

    Args:
        stages: the machine of each stage, and the seconds of one step there.
        cycle_s: seconds in which each of ``users`` gets a token.

    Returns: joules; 0 when no machine's power is known.
    """
    watts = 0.0
    for machine, seconds in stages:
        busy = min(lanes * seconds / cycle_s, 1.0)
        watts += machine.idle_watts + busy * (machine.busy_watts - machine.idle_watts)
    return watts * cycle_s / users


def average_watts(prediction: Prediction) -> float:
    """Returns the power of all machines of a plan while its users are served."""
    return prediction.joules_per_token * prediction.users_tokens_per_second


def dollars_per_million_tokens(
    price: float,
    watts: float,
    tokens_per_second: float,
    dollars_per_kwh: float,
    life_years: float,
) -> float:
    """Computes the cost of a million tokens at full use.

    Args:
        price: dollars of all machines, spread over ``life_years``.
    """
    seconds = 1e6 / tokens_per_second
    electricity = watts * seconds / JOULES_PER_KWH * dollars_per_kwh
    return electricity + price * seconds / (life_years * SECONDS_PER_YEAR)
