"""Remembers over a process's death which prompt it was reading, to admit none as long again.

A prompt that needs more memory than there is ends the process without a last word, and its gateway
submits it again. The number of tokens is in a memory-mapped file, which outlives a kill and costs
a step nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

from pomona_stage_worker.mapped_number import MappedNumber

log = logging.getLogger(__name__)

MIN_TOKENS: Final = 1024
"""Shortest prompt that counts as a cause of death."""
DEATHS: Final = 2
"""Deaths within the window after which the limit holds."""
WINDOW_S: Final = 3600.0
MAX_DEATHS: Final = 16
MARGIN: Final = 0.75
"""Limit as a share of the shortest prompt that was deadly."""
MAX_SEQUENCES: Final = 64

Death = tuple[int, float]
"""Tokens of the prompt so far, and the Unix time at which its death was found."""


def prompt_limit(deaths: Sequence[Death], now: float) -> int:
    """Returns the most tokens of a prompt to admit; 0 for no limit. ``now`` is Unix time."""
    recent = [tokens for tokens, at in deaths if 0 <= now - at < WINDOW_S]
    return int(min(recent) * MARGIN) if len(recent) >= DEATHS else 0


class PrefillRecord:
    """The prompt that this process reads, and those of which its predecessors died.

    Args:
        now: Unix time, seconds.
    """

    def __init__(self, state_dir: Path, name: str, now: float) -> None:
        self._path = state_dir / f"{name}.prefill.json"
        self._reading = MappedNumber(state_dir / f"{name}.prefill")
        self._tokens: dict[int, int] = {}
        self.deaths = _read_deaths(self._path)
        if (tokens := self._reading.value) >= MIN_TOKENS:
            self.deaths = (*self.deaths, (tokens, now))[-MAX_DEATHS:]
            log.warning("the last process ended while it read a prompt of %d tokens", tokens)
            self._write_deaths()
        self.end()

    def begin(self, sequence: int, tokens: int) -> None:
        """Records that a chunk of a sequence's prompt is read now."""
        total = self._tokens.pop(sequence, 0) + tokens
        self._tokens[sequence] = total
        if len(self._tokens) > MAX_SEQUENCES:
            del self._tokens[next(iter(self._tokens))]
        if total >= MIN_TOKENS:
            self._reading.store(total)

    def end(self) -> None:
        """Records that the chunk was read."""
        self._reading.store(0)

    def _write_deaths(self) -> None:
        try:
            self._path.write_bytes(orjson.dumps(self.deaths))
        except OSError as error:
            log.warning("cannot record in %s of which prompt a process died: %s", self._path, error)


def _read_deaths(path: Path) -> tuple[Death, ...]:
    try:
        found = orjson.loads(path.read_bytes())
        return tuple((int(tokens), float(at)) for tokens, at in found)[-MAX_DEATHS:]
    except (OSError, ValueError, TypeError):
        return ()
