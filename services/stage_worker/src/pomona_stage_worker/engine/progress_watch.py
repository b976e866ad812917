"""Decides whether a thread hangs in what it does. Pure.

The worker samples the activity of its step thread. An activity that takes several times as long as
any of its kind ever did is a hang: a Metal command that never ends looks so.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Kind = Literal["turn", "call", "decode", "prefill", "load"]

FACTOR: Final = 5.0
"""Limit of an activity, as a multiple of the longest of its kind."""
FLOORS_S: Final[dict[Kind, float]] = {
    "turn": 5.0,
    "call": 120.0,
    "decode": 5.0,
    "prefill": 10.0,
    "load": 120.0,
}
"""Smallest limit of each kind, seconds. A call assembles a stage and warms it up. A load is the
time between two changes of the bytes loaded."""
NAMES: Final[dict[Kind, str]] = {
    "turn": "the step loop",
    "call": "assembling or removing a stage",
    "decode": "a decode step",
    "prefill": "a prefill",
    "load": "loading weights",
}
MAX_TICK_S: Final = 1.0
"""Longest time between two samples that counts. Nothing ran in a longer one: the process was
stopped, or the machine slept."""


class Activity(NamedTuple):
    """Activity of a thread at one moment.

    Attributes:
        began: start of it, monotonic seconds; identifies it.
        tokens: prompt tokens of a prefill.
    """

    kind: Kind
    began: float
    tokens: int = 1


class ProgressWatch:
    """Measures one thread's activities, and compares each with the longest of its kind.

    Args:
        decode_s: seconds of a decode step, when it is known before the first.
    """

    def __init__(self, decode_s: float = 0.0) -> None:
        self._longest: dict[Kind, float] = {}
        self._activity: Activity | None = None
        self._age_s = 0.0
        self._sampled_at: float | None = None
        self.expect_decode(decode_s)

    def expect_decode(self, seconds: float) -> None:
        """Adds a measured decode step. A prompt token never takes longer than one."""
        for kind in ("decode", "prefill"):
            self._longest[kind] = max(self._longest.get(kind, 0.0), seconds)

    def limit_s(self, activity: Activity) -> float:
        """Returns the seconds after which the activity counts as a hang."""
        expected_s = self._longest.get(activity.kind, 0.0) * activity.tokens
        return max(FLOORS_S[activity.kind], FACTOR * expected_s)

    def hangs(self, activity: Activity, now: float) -> str:
        """Samples the activity at ``now``. Returns how it hangs, in words; empty if it does not.

        Call it several times a second.
        """
        tick_s = 0.0 if self._sampled_at is None else now - self._sampled_at
        tick_s = 0.0 if tick_s > MAX_TICK_S else tick_s
        self._sampled_at = now
        if self._activity is None or not _is_same(self._activity, activity):
            self._record()
            self._activity, self._age_s = activity, min(max(now - activity.began, 0.0), tick_s)
        else:
            self._age_s += tick_s
        limit_s = self.limit_s(activity)
        if self._age_s <= limit_s:
            return ""
        what = NAMES[activity.kind]
        if activity.kind == "prefill":
            what += f" of {activity.tokens} tokens"
        return f"{what} made no progress for {self._age_s:.1f} s; {limit_s:.1f} s is the limit"

    def _record(self) -> None:
        """Adds the activity that has ended to the longest of its kind.

        Turns, calls and loads do not count: they have no typical time.
        """
        ended = self._activity
        if ended is not None and ended.kind in ("decode", "prefill"):
            seconds = self._age_s / max(ended.tokens, 1)
            self._longest[ended.kind] = max(self._longest.get(ended.kind, 0.0), seconds)


def _is_same(one: Activity, other: Activity) -> bool:
    return one.kind == other.kind and one.began == other.began
