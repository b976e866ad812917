"""Damages real inputs and gives them to a parser, for a number of cases or for a given time."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

CASES: Final = 150
"""Cases for each parser in the suite."""
TOTAL_VARIABLE: Final = "POMONA_FUZZ_SECONDS"
"""Seconds for all parsers together, instead of ``CASES`` for each; ``make fuzz`` sets it."""
SECONDS_VARIABLE: Final = "POMONA_FUZZ_SECONDS_EACH"
"""Seconds for each parser."""
SEED_VARIABLE: Final = "POMONA_FUZZ_SEED"
CASE_DEADLINE_S: Final = 20.0
"""Generous limit of one case, which catches loops and quadratic work."""
_TOKENS: Final = (
    b"-1", b"0", b"99999999999999999999", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'""',
    b"[" * 3000, b'{"a":' * 1000, b"\xff", b"\x00", b"\\ud800", "\u202e".encode(), b"../", b"{{",
    b"%", b"\n", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x00\x00\x00\x80",
)  # fmt: skip


def fuzz(
    parse: Callable[[bytes], object],
    seeds: Sequence[bytes],
    refusals: tuple[type[BaseException], ...],
) -> None:
    """Gives damaged seeds to ``parse``, which must return or raise one of ``refusals``.

    Raises AssertionError with the seed of the first case that does something else.
    """
    seconds = float(os.environ.get(SECONDS_VARIABLE, "0"))
    first = int(os.environ.get(SEED_VARIABLE, "0" if not seconds else str(time.time_ns() % 10**9)))
    ends_at = time.monotonic() + seconds
    case = 0
    while case < CASES if not seconds else time.monotonic() < ends_at:
        number = first + case
        content = damaged(seeds, random.Random(number))
        started = time.monotonic()
        try:
            parse(content)
        except refusals:
            pass
        except BaseException as error:
            shown = content[:2000]
            raise AssertionError(f"{SEED_VARIABLE}={number}: {error!r} for {shown!r}") from error
        took_s = time.monotonic() - started
        assert took_s < CASE_DEADLINE_S, f"{SEED_VARIABLE}={number} took {took_s:.1f} s"
        case += 1


def damaged(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """Returns a seed with up to eight parts cut, repeated, replaced or mixed with another seed."""
    content = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(0, 8)):
        at = rng.randint(0, len(content))
        end = min(len(content), at + rng.choice((1, 1, 2, 8, 64, 1024)))
        match rng.randrange(6):
            case 0:
                del content[at:end]
            case 1:
                content[at:end] = rng.choice(_TOKENS)
            case 2:
                content[at:at] = rng.choice(_TOKENS)
            case 3:
                content[at:at] = content[at:end] * rng.choice((1, 2, 100))
            case 4 if at < len(content):
                content[at] = rng.randrange(256)
            case _:
                other = rng.choice(seeds)
                begin = rng.randint(0, len(other))
                content[at:end] = other[begin : begin + end - at]
    return bytes(content)
