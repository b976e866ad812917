"""The head's scheduler: decides which step runs next.

A request waits for admission, its prompt is prefilled in chunks, then it is a row of a lane.
S or S-1 lanes are in flight for S stages, each with at most one step in the pipeline, so that one
lane is in the last stage while another is in the first. :class:`LaneCountTuner` chooses the
number of lanes, :class:`PrefillBudget` the size of the chunks between their steps, and
:class:`KvAdmission` the sequences that have caches. Every change of a cache is an op; ops
travel with the next step, and all stages apply them in that order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from pomona.messages.cache_ops import Op
from pomona.messages.pipeline import Guess, Step, Submit
from pomona.queue_policy import policy_of
from pomona_stage_worker.sampling.sampled_tensors import SampledToken
from pomona_stage_worker.scheduler import client_updates
from pomona_stage_worker.scheduler.client_updates import QueueReport, SendUpdate
from pomona_stage_worker.scheduler.guess_steps import GuessSteps
from pomona_stage_worker.scheduler.kv_admission import KvAdmission
from pomona_stage_worker.scheduler.lane_count import (
    LaneCountTuner,
    max_steps_in_flight,
    starting_lane_count,
)
from pomona_stage_worker.scheduler.lanes import Lanes
from pomona_stage_worker.scheduler.limits import SchedulerLimits
from pomona_stage_worker.scheduler.prefill_budget import PrefillBudget
from pomona_stage_worker.scheduler.prefix_cache import PrefixCache
from pomona_stage_worker.scheduler.request_queue import PRIORITY_S, RequestQueue
from pomona_stage_worker.scheduler.sequence import InFlight, Lane, Sequence
from pomona_stage_worker.scheduler.speculator import Speculator
from pomona_stage_worker.speculation.draft import DraftSource
from pomona_stage_worker.speculation.suffix_source import SuffixSource


@dataclass(frozen=True, slots=True)
class RunStep:
    """Instruction to run a step now.

    Attributes:
        tokens: token ids of each row; all rows have the same length.
    """

    step: Step
    tokens: tuple[tuple[int, ...], ...]


Instruction: TypeAlias = RunStep | SendUpdate


class Scheduler:
    """Takes events and returns instructions. Not thread-safe.

    :meth:`submit`, :meth:`cancel`, :meth:`step_done` and :meth:`limit_caches` are the events;
    :meth:`schedule` asks for the next step. Times are seconds of the caller's clock.

    Args:
        sources: sources of guesses, in the order in which they are asked; None looks them up in
            earlier text.
    """

    def __init__(
        self, limits: SchedulerLimits, sources: tuple[DraftSource, ...] | None = None
    ) -> None:
        self._queue = RequestQueue(limits.max_waiting)
        self._lanes = Lanes(starting_lane_count(limits), limits.can_batch)
        self._kv = KvAdmission(limits, self._queue, self._lanes)
        self._budget = PrefillBudget(limits.pace)
        self._lane_count = LaneCountTuner(limits.stages)
        self._queue_report = QueueReport()
        usual = (SuffixSource(self.prefixes.texts),)
        asked = usual if sources is None else sources
        self.speculator = Speculator(limits, asked, limits.speculation)
        self._joining: list[Sequence] = []
        self._in_flight: dict[int, InFlight] = {}
        self._guess_steps = GuessSteps(
            limits.stages, self.speculator, self._queue, self._lanes, self._kv, self._in_flight
        )
        # Not a sum over the steps: another thread reads it.
        self.tokens_in_flight = 0
        self._ops: list[Op] = []
        self._step_number = 0
        self._disturbed_at = 0
        self._arrivals = 0
        self._last_was_decode = False
        self._now = 0.0

    # State -----------------------------------------------------------------------------

    @property
    def limits(self) -> SchedulerLimits:
        return self._kv.limits

    @property
    def prefixes(self) -> PrefixCache:
        return self._kv.prefixes

    @property
    def preemptions(self) -> int:
        return self._kv.preemptions

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def active(self) -> int:
        """Number of sequences that have caches."""
        return len(self._kv.active)

    @property
    def lanes(self) -> int:
        return len(self._lanes)

    @property
    def in_flight(self) -> int:
        """Number of steps in the pipeline, without those that carry only ops."""
        return len(self._in_flight)

    @property
    def reserved_tokens(self) -> int:
        """Tokens of cache that sequences and cached prefixes occupy in each stage."""
        return self._kv.reserved_tokens

    @property
    def sequence_tokens(self) -> int:
        """Tokens of cache that sequences occupy in each stage."""
        return self._kv.sequence_tokens

    def requests(self) -> list[Submit]:
        """Returns every request that has not ended; they are rejected when the epoch fails."""
        return [sequence.submit for sequence in self._kv.requests()]

    # Events ----------------------------------------------------------------------------

    def submit(
        self, submit: Submit, tokens: list[int], now: float, prediction: tuple[int, ...] = ()
    ) -> list[Instruction]:
        """Queues or rejects a request. Ignores one that is already queued or running.

        Args:
            tokens: ids of the prompt, then of the reply that earlier attempts emitted.
            prediction: ids that the client expects as reply.
        """
        limits = self.limits
        policy = policy_of(submit)
        room = min(limits.context_length, limits.cache_tokens) - len(tokens)
        if not tokens or submit.emitted >= len(tokens):
            return [client_updates.empty_prompt(submit)]
        if room <= 0:
            return [client_updates.prompt_too_long(submit, len(tokens), limits)]
        if self._queue.is_share_full(policy):
            return [client_updates.queue_share_full(submit, policy)]
        if any(x.key == (submit.request, submit.attempt) for x in self._kv.requests()):
            return []
        max_tokens = min(submit.sampling.max_tokens, submit.emitted + room)
        self._arrivals += 1
        self._queue.add(
            Sequence(
                number=0,
                submit=replace(submit, sampling=replace(submit.sampling, max_tokens=max_tokens)),
                policy=policy,
                tokens=list(tokens),
                reply_length=submit.emitted,
                expires_at=now + submit.deadline_s,
                arrival=self._arrivals,
                due_at=now + policy.priority * PRIORITY_S,
                scored=submit.scored,
                prediction=prediction,
            )
        )
        return self._reject_last(now) if self._queue.is_overfull else []

    def cancel(self, request: str, attempt: int) -> None:
        """Ends a request; its caches are freed with the next step. Ignores an unknown one."""
        for sequence in self._kv.requests():
            if sequence.key == (request, attempt):
                self._end(sequence)

    def step_done(
        self,
        step: int,
        tokens: Iterable[SampledToken],
        elapsed_us: tuple[int, ...],
        now: float | None = None,
    ) -> list[Instruction]:
        """Takes the tail's result of a step. Ignores an unknown step.

        Args:
            elapsed_us: compute time of each stage, in pipeline order.
            now: time of the result, to measure the hops between the stages.
        """
        done = self._in_flight.pop(step, None)
        if done is None:
            return []
        self.tokens_in_flight -= done.tokens
        updates: list[Instruction] = []
        if done.lane is not None:
            self._decode_done(step, done, elapsed_us, now)
        else:
            self._budget.observe_chunk(done.tokens, elapsed_us)
            updates = self._prefill_progress(done.seqs[0])
        for sampled in tokens:
            self._accept(sampled, step)
        return updates

    def limit_caches(self, tokens: int) -> None:
        """Changes the capacity of the caches, when another model is loaded or removed.

        Cached prefixes that no longer fit are freed with the next step. An accepted request may
        still grow to the length it was accepted with.
        """
        self._ops += self._kv.limit_caches(tokens)

    def schedule(self, now: float) -> list[Instruction]:
        """Returns updates for gateways, then at most one step to run."""
        self._now = now
        instructions: list[Instruction] = [
            client_updates.queue_timeout(expired.submit)
            for expired in self._queue.take_expired(now)
        ]
        admitted, ops = self._kv.admit(now)
        self._ops += ops
        instructions += [client_updates.progress(sequence) for sequence in admitted]
        instructions += self._queue_report.updates(self._queue, now)
        self._arrange_lanes()
        step = self._next_step(now)
        return instructions if step is None else [*instructions, step]

    def next_deadline(self) -> float | None:
        """Returns the time at which a waiting request expires next."""
        return self._queue.deadline

    # Steps -----------------------------------------------------------------------------

    def _next_step(self, now: float) -> RunStep | None:
        """Alternates between decode steps and chunks; ops go alone when neither is possible."""
        step = None
        if len(self._in_flight) < max_steps_in_flight(self.limits.stages):
            if self._last_was_decode:
                step = self._prefill_step() or self._decode_step(now)
            else:
                step = self._decode_step(now) or self._prefill_step()
            step = step or self._guess_step(now)
        if step is None and self._ops:
            step = self._run_step(None, (), (), sample=False)
        return step

    def _prefill_step(self) -> RunStep | None:
        """Issues the next chunk of the prompt whose turn it is."""
        prefilling = self._kv.prefilling
        if not prefilling:
            return None
        sequence, beside_streams = prefilling[0], bool(self._lanes)
        size = self._budget.chunk_size(sequence, self.limits, beside_streams)
        if size == 0:
            return None
        prefilling.pop(0)
        begin, end = sequence.computed, sequence.computed + size
        sequence.computed = end
        is_last = end == sequence.target
        if is_last:
            sequence.phase = "sampling"
        else:
            prefilling.append(sequence)
        self._budget.chunk_issued(size, beside_streams, end)
        self._last_was_decode = False
        tokens = tuple(sequence.tokens[begin:end])
        return self._run_step(None, (sequence,), (tokens,), sample=is_last)

    def _decode_step(self, now: float) -> RunStep | None:
        """Issues a step of the lane that has waited longest and for which there is memory."""
        for lane in self._lanes.idle():
            fits, ops = self._kv.reserve_step(lane)
            self._ops += ops
            if fits:
                self._observe_round(lane, now)
                lane.stepped_at = now
                self._budget.decode_issued(len(self._lanes))
                self._last_was_decode = True
                guesses, more = ((), []) if self._joining else self._guess_steps.beside(lane)
                self._ops += more
                return self._lane_step(lane, guesses, confirmed=True)
        return None

    def _lane_step(self, lane: Lane, guesses: tuple[int, ...], confirmed: bool) -> RunStep:
        """Issues a step of a lane.

        Args:
            guesses: guessed tokens of its only row.
            confirmed: whether the step begins with each row's last token.
        """
        lane.last_step = self._step_number + 1
        lane.steps.append(lane.last_step)
        first = lane.rows[0]
        guess = Guess(first.computed, len(first.tokens)) if guesses else None
        known = [row.tokens[-1:] if confirmed else [] for row in lane.rows]
        tokens = tuple((*last, *guesses) for last in known)
        for row in lane.rows:
            row.computed += len(tokens[0])
            row.last_step = lane.last_step
        return self._run_step(lane.number, tuple(lane.rows), tokens, True, guess, len(guesses))

    def _guess_step(self, now: float) -> RunStep | None:
        """Issues a step of guesses for a lane with a step in flight."""
        if self._joining:
            return None
        lane, guesses, ops = self._guess_steps.next(now)
        self._ops += ops
        return None if lane is None else self._lane_step(lane, guesses, confirmed=False)

    def _decode_done(
        self, step: int, done: InFlight, elapsed_us: tuple[int, ...], now: float | None
    ) -> None:
        """Records the times of a decode step, unless it continued a wrong guess."""
        lane = self._lanes.get(done.lane or 0)
        is_live = lane is not None and step in lane.steps
        if lane is not None and is_live:
            lane.steps.remove(step)
        if done.guesses and not is_live:
            return
        if done.tokens == len(done.seqs):
            self._budget.observe_decode(elapsed_us)
        if len(done.seqs) == 1 and self.speculator.can_guess:
            round_us = None
            if now is not None and done.is_alone and not self._in_flight:
                round_us = 1e6 * (now - done.issued_at)
            self.speculator.policy.observe(done.tokens, elapsed_us, round_us)

    def _arrange_lanes(self) -> None:
        """Gives new sequences a lane and evens out the lanes. Rows share a lane or move only when
        no guess is in flight."""
        is_settled = not self._lanes.has_guesses
        while self._joining and (is_settled or len(self._lanes) < self._lanes.limit):
            self._ops.append(self._lanes.join(self._joining.pop(0)))
        if self.limits.can_batch:
            self._lanes.limit = self._lane_count.lanes(self._lanes.rows)
        if is_settled:
            self._ops += self._lanes.balance()

    def _observe_round(self, lane: Lane, now: float) -> None:
        """Records the time since a lane's last step, unless a chunk or an op disturbed it."""
        is_undisturbed = lane.last_step > self._disturbed_at
        seconds = now - lane.stepped_at if is_undisturbed else None
        self._lane_count.observe(self._lanes.rows, len(self._lanes), seconds)

    def _run_step(
        self,
        lane: int | None,
        rows: tuple[Sequence, ...],
        tokens: tuple[tuple[int, ...], ...],
        sample: bool,
        guess: Guess | None = None,
        guesses: int = 0,
    ) -> RunStep:
        """Numbers a step and attaches the pending ops."""
        self._step_number += 1
        seqs = tuple(row.number for row in rows)
        ops, self._ops = tuple(self._ops), []
        if ops or lane is None:
            self._disturbed_at = self._step_number
        if rows:
            is_alone = not self._in_flight
            count = sum(map(len, tokens))
            issued = InFlight(lane, seqs, count, guesses, self._now, is_alone)
            self._in_flight[self._step_number] = issued
            self.tokens_in_flight += issued.tokens
        return RunStep(Step(self._step_number, lane, seqs, sample, ops, guess=guess), tokens)

    # Requests --------------------------------------------------------------------------

    def _reject_last(self, now: float) -> list[Instruction]:
        """Rejects the request that would start last, among those without any reply yet."""
        order = [x for x in self._queue.order(now) if not x.reply_length]
        if not order:
            return []
        self._queue.remove(order[-1])
        return [client_updates.queue_full(order[-1].submit, len(self._queue))]

    def _end(self, sequence: Sequence) -> None:
        """Ends a request, wherever it is."""
        self.speculator.abandon(sequence)
        if sequence in self._joining:
            self._joining.remove(sequence)
        self._ops += self._kv.end(sequence)

    def _accept(self, sampled: SampledToken, step: int) -> None:
        """Appends a sampled token; the sequence ends or joins a lane. Ignores an ended one."""
        sequence = self._kv.active.get(sampled.seq)
        if sequence is None or sequence.phase == "prefilling":
            return
        sequence.phase = "running"
        sequence.tokens.append(sampled.token)
        sequence.reply_length += 1
        is_right = self.speculator.settle(sequence, sampled.token)
        if sampled.finish is not None:
            self._ops += self._lanes.rollback(sequence, len(sequence.tokens) - 1)
            self._end(sequence)
        elif sequence.lane is None:
            self._joining.append(sequence)
        elif not is_right:
            self._ops += self._lanes.rollback(sequence, len(sequence.tokens) - 1)
            lane = self._lanes.get(sequence.lane)
            if lane is not None:
                lane.last_step = sequence.last_step = step

    def _prefill_progress(self, number: int) -> list[Instruction]:
        sequence = self._kv.active.get(number)
        if sequence is None:
            return []
        in_flight = sum(x.tokens for x in self._in_flight.values() if x.seqs == (number,))
        return [client_updates.progress(sequence, in_flight)]
