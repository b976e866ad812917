"""The KV caches of one stage: sequences, cached prefixes and lanes, changed only by ops.

Every stage applies the same ops in the same order, so the tables of all stages agree. The
agreement check compares :meth:`CacheTable.table`.

A lane of one row uses that row's own caches; from two rows on, its caches are batched. A cached
prefix stores only the tokens that its parent does not have if all caches are plain KV caches;
otherwise it is a whole snapshot.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from pomona.errors import PomonaError
from pomona.messages.cache_ops import Close, Drop, Fork, Join, Leave, Op, Open, Rollback, Trim
from pomona_stage_worker.model.guess_log import GuessLog
from pomona_stage_worker.model.layer_caches import (
    Caches,
    cache_bytes,
    concatenate,
    extend_batch,
    extract_row,
    merge_rows,
    sequence_length,
    slice_tokens,
)


class CacheTableError(PomonaError):
    """An op does not fit the table: the stages no longer agree, and the epoch must end."""


@dataclass(slots=True)
class Lane:
    """Sequences that step together. ``caches`` are batched from two rows on.

    Attributes:
        guesses: steps with guessed tokens that are not confirmed; only with one row.
        branch: number of rollbacks so far.
    """

    rows: list[int]
    caches: Caches
    guesses: GuessLog = field(default_factory=GuessLog)
    branch: int = 0


@dataclass(frozen=True, slots=True)
class Prefix:
    """A cached prefix of ``length`` tokens. ``caches`` hold tokens ``[shared, length)``; the
    parent has the others."""

    caches: Caches
    length: int
    shared: int
    parent: int | None


@dataclass(slots=True)
class CacheTable:
    """Every cache of one stage.

    Args:
        make: returns new, empty caches for one sequence.
    """

    make: Callable[[], Caches]
    sequences: dict[int, Caches] = field(default_factory=dict[int, Caches])
    lanes: dict[int, Lane] = field(default_factory=dict[int, Lane])
    prefixes: dict[int, Prefix] = field(default_factory=dict[int, Prefix])

    def apply(self, op: Op) -> None:
        """Applies one op. Raises CacheTableError if the op does not fit the table."""
        try:
            match op:
                case Open():
                    self._refuse(op.seq in self.sequences, f"sequence {op.seq} is open")
                    self.sequences[op.seq] = self.make()
                case Fork():
                    self.sequences[op.seq] = self._fork(op.prefix, op.length)
                case Trim():
                    self._trim(op.prefix, op.length)
                case Close():
                    self._close(op)
                case Drop():
                    del self.prefixes[op.prefix]
                case Join():
                    self._join(op.lane, op.seqs)
                case Leave():
                    self._leave(op.lane, op.seqs)
                case Rollback():
                    self._rollback(op)
        except KeyError as error:
            raise CacheTableError(f"{op} names {error}, which this stage does not hold") from error

    def table(self) -> dict[str, Any]:
        """Returns the contents on which all stages must agree: numbers, rows and lengths."""
        return {
            "sequences": {seq: sequence_length(caches) for seq, caches in self.sequences.items()},
            "lanes": {number: tuple(lane.rows) for number, lane in self.lanes.items()},
            "branches": {number: lane.branch for number, lane in self.lanes.items() if lane.branch},
            "prefixes": {
                number: (prefix.length, prefix.shared, prefix.parent)
                for number, prefix in self.prefixes.items()
            },
        }

    def nbytes(self) -> int:
        """Returns the bytes of all caches, phantoms included."""
        held = [*self.sequences.values()]
        held += [lane.caches for lane in self.lanes.values()]
        held += [prefix.caches for prefix in self.prefixes.values()]
        return sum(map(cache_bytes, held))

    def prefix_nbytes(self) -> int:
        """Returns the bytes of the cached prefixes' caches."""
        return sum(cache_bytes(prefix.caches) for prefix in self.prefixes.values())

    def _join(self, number: int, seqs: Sequence[int]) -> None:
        joining = [self.sequences.pop(seq) for seq in seqs]
        lane = self.lanes.get(number)
        if lane is None:
            caches = joining[0] if len(joining) == 1 else merge_rows(joining)
            self.lanes[number] = Lane(list(seqs), caches)
            return
        lane.guesses.clear()
        join = merge_rows if len(lane.rows) == 1 else extend_batch
        lane.caches = join([lane.caches, *joining])
        lane.rows.extend(seqs)

    def _leave(self, number: int, seqs: Sequence[int]) -> None:
        lane = self.lanes[number]
        for seq in seqs:
            self._refuse(seq not in lane.rows, f"sequence {seq} is not in lane {number}")
        if len(lane.rows) == 1:
            self.sequences[lane.rows[0]] = lane.caches
            del self.lanes[number]
            return
        for seq in seqs:
            self.sequences[seq] = extract_row(lane.caches, lane.rows.index(seq))
        rest = [row for row in lane.rows if row not in seqs]
        if not rest:
            del self.lanes[number]
        elif len(rest) == 1:
            caches = extract_row(lane.caches, lane.rows.index(rest[0]), with_room=True)
            self.lanes[number] = Lane(rest, caches)
        else:
            keep = mx.array([lane.rows.index(row) for row in rest])
            for cache in lane.caches:
                cache.filter(keep)
            lane.rows = rest

    def _rollback(self, op: Rollback) -> None:
        lane = self.lanes[op.lane]
        self._refuse(len(lane.rows) != 1, f"lane {op.lane} has {len(lane.rows)} rows")
        try:
            lane.guesses.rollback(op.length)
        except ValueError as error:
            raise CacheTableError(f"lane {op.lane}: {error}") from error
        lane.branch = op.branch

    def _close(self, op: Close) -> None:
        caches = self.sequences.pop(op.seq)
        if op.keep is None:
            return
        self._refuse(op.keep in self.prefixes, f"prefix {op.keep} exists")
        if op.parent is not None:
            self._refuse(op.parent not in self.prefixes, f"prefix {op.parent} is gone")
            caches = [slice_tokens(cache, op.shared, op.length) for cache in caches]
        elif sequence_length(caches) > op.length:
            caches = [slice_tokens(cache, 0, op.length) for cache in caches]
        self.prefixes[op.keep] = Prefix(caches, op.length, op.shared, op.parent)

    def _trim(self, number: int, length: int) -> None:
        old = self.prefixes[number]
        caches = [slice_tokens(cache, 0, length - old.shared) for cache in old.caches]
        self.prefixes[number] = Prefix(caches, length, old.shared, old.parent)

    def _fork(self, number: int, length: int) -> Caches:
        """Returns new caches with the first ``length`` tokens of a prefix and its ancestors."""
        parts: list[Caches] = []
        prefix = self.prefixes[number]
        stop = length
        if prefix.parent is None and stop == prefix.length:
            return copy.deepcopy(prefix.caches)
        while True:
            if stop > prefix.shared:
                own = [slice_tokens(cache, 0, stop - prefix.shared) for cache in prefix.caches]
                parts.append(own)
            if prefix.parent is None:
                break
            stop = min(stop, prefix.shared)
            prefix = self.prefixes[prefix.parent]
        parts.reverse()
        return [concatenate(pieces) for pieces in zip(*parts, strict=True)]

    @staticmethod
    def _refuse(condition: bool, problem: str) -> None:
        if condition:
            raise CacheTableError(f"{problem}: the stages no longer agree")
