"""Decides which sequences have KV caches: admission, eviction and preemption.

Memory is counted in tokens of the tightest stage.
"""

from __future__ import annotations

from dataclasses import replace

from pomona.messages.cache_ops import Close, Fork, Op
from pomona_stage_worker.scheduler.lanes import Lanes
from pomona_stage_worker.scheduler.limits import SchedulerLimits
from pomona_stage_worker.scheduler.prefix_cache import PrefixCache
from pomona_stage_worker.scheduler.request_queue import RequestQueue
from pomona_stage_worker.scheduler.sequence import Lane, Sequence


class KvAdmission:
    """Owns the sequences that have caches, and the cached prefixes beside them.

    Each method that changes caches returns the ops which do so in every stage.

    Attributes:
        limits: ``cache_tokens`` may change while requests run.
        active: sequences with caches, by number.
        prefilling: active sequences in prefill, in the order of their turns.
        preemptions: number of sequences that lost their caches to others.
    """

    def __init__(self, limits: SchedulerLimits, queue: RequestQueue, lanes: Lanes) -> None:
        self.limits = limits
        self.prefixes = PrefixCache(partial=limits.can_slice, block=limits.block)
        self.active: dict[int, Sequence] = {}
        self.prefilling: list[Sequence] = []
        self.preemptions = 0
        self._queue = queue
        self._lanes = lanes
        self._number = 0

    @property
    def sequence_tokens(self) -> int:
        """Tokens of cache that sequences occupy in each stage."""
        # A copy, since another thread may read this while a sequence is added.
        return sum(x.reserved for x in list(self.active.values()))

    @property
    def reserved_tokens(self) -> int:
        """Tokens of cache that sequences and cached prefixes occupy in each stage."""
        return self.sequence_tokens + self.prefixes.stored_tokens

    def requests(self) -> list[Sequence]:
        """Returns all waiting and active sequences."""
        return [*self._queue, *self.active.values()]

    def limit_caches(self, tokens: int) -> list[Op]:
        """Changes the capacity of the caches, evicting prefixes that no longer fit.

        An accepted request may still grow to the length it was accepted with.
        """
        self.limits = replace(self.limits, cache_tokens=tokens)
        return self._evict_for(0)

    def admit(self, now: float) -> tuple[list[Sequence], list[Op]]:
        """Admits waiting requests in queue order while their caches fit."""
        admitted: list[Sequence] = []
        ops: list[Op] = []
        while (
            self._queue
            and len(self.prefilling) < self.limits.max_prefilling
            and len(self.active) < self.limits.max_running
        ):
            sequence = next(self._queue.order(now))
            needed = len(sequence.tokens) + 1
            ops += self._evict_for(needed)
            if not self._fits(needed):
                break
            self._queue.admit(sequence)
            ops += self._open(sequence)
            admitted.append(sequence)
        return admitted, ops

    def reserve_step(self, lane: Lane) -> tuple[bool, list[Op]]:
        """Makes room for the next token of every row of an idle lane.

        Evicts prefixes, then preempts the youngest sequences. Returns False when the lane cannot
        step now: either it was emptied, or the sequences in flight have to make room first.
        """
        ops: list[Op] = []
        while lane.rows:
            needed = len(lane.rows)
            ops += self._evict_for(needed)
            if self._fits(needed):
                return True, ops
            idle = [row for other in self._lanes.idle() for row in other.rows]
            candidates = [*self.prefilling, *idle]
            if len(candidates) < 2:
                return False, ops
            ops += self._preempt(max(candidates, key=lambda x: (x.due_at, x.arrival)))
        return False, ops

    def reserve_guesses(self, count: int) -> tuple[bool, list[Op]]:
        """Makes room for guessed tokens by evicting prefixes. Returns False if there is none."""
        ops = self._evict_for(count)
        return self._fits(count), ops

    def end(self, sequence: Sequence) -> list[Op]:
        """Ends a request. Its caches become a cached prefix, or are freed."""
        if sequence.phase == "waiting":
            self._queue.remove(sequence)
            return []
        ops = self._detach(sequence)
        prefix = None
        length = self._reusable(sequence)
        if length >= self.limits.min_prefix:
            tokens = sequence.tokens[:length]
            prefix = self.prefixes.add(tokens, sequence.policy.tenant, sequence.origin)
        if prefix is None:
            return [*ops, Close(sequence.number)]
        ops.append(
            Close(
                sequence.number,
                keep=prefix.number,
                length=len(prefix.tokens),
                parent=prefix.parent,
                shared=prefix.shared,
            )
        )
        while self.prefixes.is_overfull and (op := self.prefixes.evict()) is not None:
            ops.append(op)
        return ops

    def _reusable(self, sequence: Sequence) -> int:
        """Returns how many tokens of an ended sequence may become a cached prefix.

        In deterministic mode these are the whole chunks of its prompt.
        """
        block = self.limits.block
        if block == 1:
            return sequence.computed
        length = min(sequence.computed, sequence.prompt_length) if self.limits.can_slice else 0
        return length - length % block

    def _open(self, sequence: Sequence) -> list[Op]:
        self._number += 1
        sequence.number = self._number
        sequence.target = len(sequence.tokens)
        sequence.computed = 0
        sequence.lane = None
        sequence.phase = "prefilling"
        sequence.draft.reset()
        ops: list[Op] = [sequence.open_op()]
        sequence.origin = self.prefixes.find(sequence.prefix_tokens, sequence.policy.tenant)
        if sequence.origin is not None:
            prefix, length = sequence.origin
            ops.append(Fork(prefix, sequence.number, length))
            sequence.computed = length
        self.active[sequence.number] = sequence
        self.prefilling.append(sequence)
        return ops

    def _preempt(self, sequence: Sequence) -> list[Op]:
        """Frees a sequence's caches and requeues it; its tokens so far become its prompt."""
        self.preemptions += 1
        ops = self._detach(sequence)
        # The steps that were issued reach the tail before the sequence is opened again.
        sequence.scored = max(sequence.scored, sequence.computed)
        sequence.target = sequence.computed = 0
        self._queue.add(sequence)
        return [*ops, Close(sequence.number)]

    def _detach(self, sequence: Sequence) -> list[Op]:
        """Removes a sequence from the active ones, so that its caches are in no lane and hold no
        guess."""
        del self.active[sequence.number]
        if sequence.phase == "prefilling":
            self.prefilling.remove(sequence)
        ops = self._lanes.rollback(sequence, len(sequence.tokens))
        return [*ops, *self._lanes.leave(sequence)]

    def _evict_for(self, tokens: int) -> list[Op]:
        """Evicts cached prefixes until ``tokens`` more fit, or none can be evicted."""
        ops: list[Op] = []
        while self.reserved_tokens + tokens > self.limits.cache_tokens:
            op = self.prefixes.evict()
            if op is None:
                break
            ops.append(op)
        return ops

    def _fits(self, tokens: int) -> bool:
        """Returns True when ``tokens`` more fit, once no prefix can be evicted for them.

        The longest accepted request always fits, even if the caches have become smaller.
        """
        needed = self.reserved_tokens + tokens
        if needed <= self.limits.cache_tokens:
            return True
        return needed <= max((x.max_length for x in self.requests()), default=0)
