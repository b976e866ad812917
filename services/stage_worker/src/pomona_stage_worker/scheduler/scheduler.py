"""The head's scheduler: which step goes next.

Events come in by :meth:`Scheduler.submit`, :meth:`~Scheduler.cancel` and
:meth:`~Scheduler.step_done`; instructions go out by :meth:`~Scheduler.next_step` and
:meth:`~Scheduler.take_notices`. The caller's clock is a parameter.

A request waits, then its prompt is read in chunks (prefilling), then it is a row of a
lane. There are about as many lanes as stages; each has at most one step in the pipeline,
so that while one lane is in the last stage another is in the first; :class:`LaneCountTuner` tells
whether one lane fewer serves all of them sooner. Chunks go between the steps of lanes, as
large as :class:`PrefillBudget` allows. Whatever changes a cache is an op; ops ride on the next
step, and all stages apply them in that order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pomona.messages.cache_ops import Close, Fork, Op
from pomona.messages.pipeline import Step, Submit
from pomona_stage_worker.sampling.sampled_tensors import SampledToken
from pomona_stage_worker.scheduler import refusals
from pomona_stage_worker.scheduler.client_updates import ClientUpdate, ClientUpdates
from pomona_stage_worker.scheduler.lane_count import LaneCountTuner
from pomona_stage_worker.scheduler.lanes import Lanes
from pomona_stage_worker.scheduler.limits import SchedulerLimits
from pomona_stage_worker.scheduler.prefill_budget import PrefillBudget
from pomona_stage_worker.scheduler.prefix_cache import PrefixCache
from pomona_stage_worker.scheduler.request_queue import PRIORITY_S, RequestQueue
from pomona_stage_worker.scheduler.sequence import InFlight, Lane, Sequence


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step to run now. ``tokens``: for each row its ids, all rows equally many."""

    step: Step
    tokens: tuple[tuple[int, ...], ...]


class Scheduler:
    """Not thread-safe; holds no resources."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.pace = PrefillBudget(limits.pace)
        self.prefixes = PrefixCache(partial=limits.can_slice)
        self.preemptions = 0
        self._in_flight_limit = limits.stages + 1
        self._waiting = RequestQueue(limits.max_waiting)
        self._prefilling: list[Sequence] = []
        self._sampling: dict[int, Sequence] = {}
        self._running: dict[int, Sequence] = {}
        lanes = limits.stages if limits.can_batch else limits.max_running
        self._lanes = Lanes(lanes, limits.can_batch)
        self._rounds = LaneCountTuner(limits.stages)
        self._in_flight: dict[int, InFlight] = {}
        self._ops: list[Op] = []
        self._notices = ClientUpdates()
        self._sequence_number = 0
        self._step_number = 0
        self._disturbed_at = 0
        self._arrivals = 0
        self._last_was_decode = False

    # What it holds ---------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Sequences that have caches."""
        return len(self._prefilling) + len(self._sampling) + len(self._running)

    @property
    def lanes(self) -> int:
        return len(self._lanes)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def reserved_tokens(self) -> int:
        """Cache that sequences and kept prefixes take in each stage, in tokens."""
        return self.sequence_tokens + self.prefixes.stored_tokens

    @property
    def sequence_tokens(self) -> int:
        """The part of it that sequences take."""
        return sum(x.reserved for x in self._live())

    def requests(self) -> list[Submit]:
        """Every request that has not ended, for whom it may concern when the epoch fails."""
        return [sequence.submit for sequence in (*self._waiting, *self._live())]

    # Events ----------------------------------------------------------------------------

    def submit(self, submit: Submit, tokens: list[int], now: float) -> None:
        """A request arrives; ``tokens`` are its prompt and what was emitted before."""
        limits = self.limits
        room = min(limits.context_length, limits.cache_tokens) - len(tokens)
        if not tokens or submit.emitted >= len(tokens):
            self._notices.rejected(submit, refusals.EMPTY_PROMPT)
        elif room <= 0:
            self._notices.rejected(submit, refusals.too_long(len(tokens), limits))
        elif self._waiting.has_share_filled(submit):
            self._notices.rejected(submit, refusals.share_full(submit))
        elif not any(x.key == (submit.request, submit.attempt) for x in self._everyone()):
            most = min(submit.sampling.max_tokens, submit.emitted + room)
            submit = replace(submit, sampling=replace(submit.sampling, max_tokens=most))
            self._arrivals += 1
            self._waiting.add(
                Sequence(
                    number=0,
                    submit=submit,
                    tokens=list(tokens),
                    replied=submit.emitted,
                    expires_at=now + submit.deadline_s,
                    arrived=self._arrivals,
                    turn=now + submit.priority * PRIORITY_S,
                    scored=submit.scored,
                )
            )
            if self._waiting.is_overfull:
                self._refuse_last(now)

    def cancel(self, request: str, attempt: int) -> None:
        """A request is no longer wanted; unknown ones are ignored."""
        for sequence in self._everyone():
            if sequence.key == (request, attempt):
                self._end(sequence)

    def step_done(
        self, step: int, tokens: Iterable[SampledToken], elapsed_us: tuple[int, ...]
    ) -> None:
        """The tail has finished a step. Args: elapsed_us: compute time of every stage, in order."""
        flight = self._in_flight.pop(step, None)
        if flight is None:
            return
        if flight.lane is not None:
            self.pace.observe_decode(elapsed_us)
            lane = self._lanes.get(flight.lane)
            if lane is not None:
                lane.stepping = False
        elif flight.seqs:
            self.pace.observe_chunk(flight.tokens, elapsed_us)
            self._tell_progress(flight.seqs[0])
        for drawn in tokens:
            sequence = self._sampling.pop(drawn.seq, None)
            if sequence is not None:
                self._running[drawn.seq] = sequence
                sequence.phase = "running"
            else:
                sequence = self._running.get(drawn.seq)
            if sequence is None:
                continue
            sequence.tokens.append(drawn.token)
            sequence.replied += 1
            if drawn.finish is not None:
                self._end(sequence)
            elif sequence.lane is None:
                self._ops.append(self._lanes.join(sequence))

    def limit_caches(self, tokens: int) -> None:
        """Caches may hold so many tokens from now on: another model came, or went. Kept
        prefixes go at once; a request that was accepted keeps the room it was promised."""
        self.limits = replace(self.limits, cache_tokens=tokens)
        self._make_room(0)

    # Instructions ----------------------------------------------------------------------

    def take_notices(self) -> list[ClientUpdate]:
        return self._notices.take()

    def next_step(self, now: float) -> PlannedStep | None:
        """The step to run now, or None when there is nothing to do before an event."""
        self._expire(now)
        self._admit(now)
        self._notices.places(self._waiting, now)
        if self.limits.can_batch:
            self._lanes.limit = self._rounds.lanes(self._lanes.rows)
        self._ops += self._lanes.balance()
        if len(self._in_flight) < self._in_flight_limit:
            planned = None
            if self._last_was_decode:
                planned = self._chunk() or self._decode(now)
            else:
                planned = self._decode(now) or self._chunk()
            if planned is not None:
                return planned
        return self._plan(None, (), (), sample=False) if self._ops else None

    def next_deadline(self) -> float | None:
        """When a waiting request expires next, in the caller's clock."""
        return self._waiting.deadline

    # Waiting ---------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        for sequence in self._waiting.take_expired(now):
            submit = sequence.submit
            self._notices.rejected(submit, refusals.waited_too_long(submit))

    def _refuse_last(self, now: float) -> None:
        """Too many wait: whoever would be begun last goes, of those that have no reply yet."""
        order = [x for x in self._waiting.order(now) if not x.replied]
        if not order:
            return
        self._waiting.remove(order[-1])
        self._notices.rejected(order[-1].submit, refusals.queue_full(len(self._waiting)))

    def _admit(self, now: float) -> None:
        while (
            self._waiting
            and len(self._prefilling) < self.limits.max_prefilling
            and self.active < self.limits.max_running
        ):
            first = next(self._waiting.order(now))
            if not self._make_room(len(first.tokens) + 1):
                return
            self._waiting.begin(first)
            self._open(first)

    def _make_room(self, tokens: int) -> bool:
        """Drop kept prefixes until ``tokens`` more fit. False when they cannot."""
        while (wanted := self.reserved_tokens + tokens) > self.limits.cache_tokens:
            op = self.prefixes.evict()
            if op is None:
                return wanted <= max((x.most for x in self._everyone()), default=0)
            self._ops.append(op)
        return True

    def _open(self, sequence: Sequence) -> None:
        self._sequence_number += 1
        sequence.number = self._sequence_number
        sequence.target = len(sequence.tokens)
        sequence.computed = 0
        sequence.lane = None
        sequence.phase = "prefilling"
        self._ops.append(sequence.opening())
        sequence.origin = self.prefixes.find(sequence.reusable, sequence.submit.share)
        if sequence.origin is not None:
            prefix, length = sequence.origin
            self._ops.append(Fork(prefix, sequence.number, length))
            sequence.computed = length
        self._prefilling.append(sequence)
        self._notices.progress(sequence)

    # Prefilling ------------------------------------------------------------------------

    def _chunk(self) -> PlannedStep | None:
        """The next chunk of the prompt whose turn it is."""
        if not self._prefilling:
            return None
        sequence = self._prefilling[0]
        left = sequence.target - sequence.computed
        size = self._chunk_size(sequence, left)
        if size == 0:
            return None
        self._prefilling.pop(0)
        begin, end = sequence.computed, sequence.computed + size
        sequence.computed = end
        last = end == sequence.target
        if last:
            sequence.phase = "sampling"
            self._sampling[sequence.number] = sequence
        else:
            self._prefilling.append(sequence)
        self.pace.chunk_issued(size, beside_streams=bool(self._lanes))
        self._last_was_decode = False
        return self._plan(None, (sequence,), (tuple(sequence.tokens[begin:end]),), sample=last)

    def _chunk_size(self, sequence: Sequence, left: int) -> int:
        """Eight chunks a stage keep all stages busy but for an eighth of the time."""
        spread = -(-(sequence.target - (sequence.origin or (0, 0))[1]) // (8 * self.limits.stages))
        most = min(left, max(32, min(spread, self.limits.chunk)))
        if sequence.unscored:
            most = min(most, self.limits.scored_chunk)
        if not self._lanes:
            return most
        return self.pace.affordable(most, is_rest=most == left)

    def _tell_progress(self, number: int) -> None:
        for sequence in (*self._prefilling, *self._sampling.values()):
            if sequence.number == number:
                flying = sum(x.tokens for x in self._in_flight.values() if x.seqs == (number,))
                self._notices.progress(sequence, flying)

    # Running ---------------------------------------------------------------------------

    def _decode(self, now: float) -> PlannedStep | None:
        """A step of the lane that has waited longest."""
        for lane in self._lanes.idle():
            if not self._make_room_for_step(lane):
                continue
            undisturbed = lane.stepped_at > self._disturbed_at
            took = now - lane.went_at if undisturbed else None
            self._rounds.observe(self._lanes.rows, len(self._lanes), took)
            lane.stepping = True
            lane.stepped_at = self._step_number + 1
            for row in lane.rows:
                row.computed += 1
                row.stepped_at = lane.stepped_at
            lane.went_at = now
            self.pace.decode_issued(len(self._lanes))
            self._last_was_decode = True
            tokens = tuple((row.tokens[-1],) for row in lane.rows)
            return self._plan(lane.number, tuple(lane.rows), tokens, sample=True)
        return None

    def _make_room_for_step(self, lane: Lane) -> bool:
        """Room for one more token of every row, at the cost of the youngest sequence.

        False when the lane cannot step now; others in the pipeline will make room.
        """
        while lane.rows and not self._make_room(len(lane.rows)):
            idle = [row for other in self._lanes.idle() for row in other.rows]
            candidates = [*self._prefilling, *idle]
            if len(candidates) < 2:
                return False
            self._preempt(max(candidates, key=lambda x: (x.turn, x.arrived)))
        return bool(lane.rows)

    def _preempt(self, sequence: Sequence) -> None:
        """Free a sequence's caches; it begins again, tokens so far as its prompt, later."""
        self.preemptions += 1
        self._detach(sequence)
        self._ops.append(Close(sequence.number))
        # The steps that were issued reach the tail before the sequence is opened again.
        sequence.scored = max(sequence.scored, sequence.computed)
        sequence.target = sequence.computed = 0
        self._waiting.add(sequence)

    # Ending ----------------------------------------------------------------------------

    def _end(self, sequence: Sequence) -> None:
        """A request is over: its caches become a kept prefix, or are freed."""
        if sequence.phase == "waiting":
            self._waiting.remove(sequence)
            return
        self._detach(sequence)
        kept = None
        if sequence.computed >= self.limits.least_prefix:
            share = sequence.submit.share
            kept = self.prefixes.add(sequence.tokens[: sequence.computed], share, sequence.origin)
        if kept is None:
            self._ops.append(Close(sequence.number))
            return
        self._ops.append(
            Close(
                sequence.number,
                keep=kept.number,
                length=len(kept.tokens),
                parent=kept.parent,
                shared=kept.shared,
            )
        )
        while self.prefixes.overfull() and (op := self.prefixes.evict()) is not None:
            self._ops.append(op)

    def _detach(self, sequence: Sequence) -> None:
        """Take a sequence out of wherever it is, so that its caches stand alone."""
        if sequence.phase == "prefilling":
            self._prefilling.remove(sequence)
        elif sequence.phase == "sampling":
            del self._sampling[sequence.number]
        else:
            del self._running[sequence.number]
            op = self._lanes.leave(sequence)
            if op is not None:
                self._ops.append(op)

    # Helpers ---------------------------------------------------------------------------

    def _plan(
        self,
        lane: int | None,
        rows: tuple[Sequence, ...],
        tokens: tuple[tuple[int, ...], ...],
        sample: bool,
    ) -> PlannedStep:
        self._step_number += 1
        seqs = tuple(row.number for row in rows)
        ops, self._ops = tuple(self._ops), []
        if ops or lane is None:
            self._disturbed_at = self._step_number
        if rows:
            self._in_flight[self._step_number] = InFlight(lane, seqs, sum(map(len, tokens)))
        return PlannedStep(Step(self._step_number, lane, seqs, sample, ops), tokens)

    def _live(self) -> list[Sequence]:
        return [*self._prefilling, *self._sampling.values(), *self._running.values()]

    def _everyone(self) -> list[Sequence]:
        return [*self._waiting, *self._live()]
