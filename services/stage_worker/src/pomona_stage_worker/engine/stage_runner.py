"""Runs one stage of a pipeline for one epoch: messages in, steps run, messages out."""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import prod
from pathlib import Path

import orjson
from prometheus_client import Counter

from pomona.addresses import at_node
from pomona.errors import LinkBusyError, LinkGapError, LinkLostError, ProtocolError
from pomona.messages.codec import Buffer, Message, MessageRest, check_sizes
from pomona.messages.control import Pipeline, SpeculationStatus
from pomona.messages.pipeline import (
    Body,
    Cancel,
    Envelope,
    Rejected,
    Step,
    StepDone,
    Submit,
    Tensor,
    Token,
    Tokens,
)
from pomona.transport import Identity, LinkOrder, Push
from pomona_stage_worker.engine.gateway_links import GatewayLinks
from pomona_stage_worker.engine.prefill_record import PrefillRecord
from pomona_stage_worker.engine.progress_watch import Activity
from pomona_stage_worker.engine.step_sender import StepResult, StepSender
from pomona_stage_worker.engine.step_stats import StepRecord, StepStats, StepTimes, StepTrace
from pomona_stage_worker.hardware.gpu_failure import is_gpu_failure
from pomona_stage_worker.model.mlx_stage import Computation, Stage, StepOutput
from pomona_stage_worker.sampling.sampled_tensors import pack, sampled_tensor, unpack
from pomona_stage_worker.scheduler import (
    Instruction,
    RunStep,
    Scheduler,
    SchedulerLimits,
    SendUpdate,
)
from pomona_stage_worker.speculation.draft import DraftSource

log = logging.getLogger(__name__)

MAX_OWNERS = 4096
"""Number of requests after which the gateways of ended ones are forgotten."""
LONG_PREFILL_TOKENS = 4096
"""Prefilled tokens after which the allocator's buffers are returned."""

TOKENS = Counter("pomona_stage_tokens", "Tokens sampled by the tail", ["model_name"])


@dataclass(frozen=True, slots=True)
class RunnerLoad:
    """Load of a stage runner.

    Attributes:
        steps: steps run.
        compute_us: microseconds that they computed.
        tokens: tokens sampled.
        step_tokens: tokens of the step that runs; on the head, of all steps in the pipeline.
        waiting, active, lanes, prefixes, sequence_tokens: the scheduler's, on the head.
        sequences, cache_bytes, prefix_bytes, table: state of the caches when the stage was last
            idle; ``table`` is the number of the last step and a digest of the cache table.
    """

    steps: int = 0
    tokens: int = 0
    step_tokens: int = 0
    waiting: int = 0
    active: int = 0
    lanes: int = 0
    prefixes: int = 0
    sequence_tokens: int = 0
    sequences: int = 0
    cache_bytes: int = 0
    prefix_bytes: int = 0
    table: str = ""
    compute_us: int = 0


class StageRunner:
    """One stage of one pipeline in one epoch. Used by the step thread only, except for ``load``,
    ``times``, ``failure``, ``busy``, ``step_activity`` (the step that runs) and ``has_lost_gpu``.

    A failure ends the epoch here, not the process: the runner then ignores all messages.

    Args:
        position: index of this stage in ``pipeline``.
        limits: returns the scheduler's limits; called on the head.
        link_deadline_s: seconds for the next stage to take a message.
        trace_dir: folder for a trace of the steps.
        prefills: record of the prompt that is read.
        sources: sources of guesses; see :class:`Scheduler`.
        release: returns memory that MLX's allocator keeps; called after a long prefill.
    """

    def __init__(
        self,
        identity: Identity,
        pipeline: Pipeline,
        position: int,
        stage: Stage,
        limits: Callable[[Pipeline, Stage], SchedulerLimits],
        link_deadline_s: float,
        trace_dir: Path | None = None,
        prefills: PrefillRecord | None = None,
        sources: tuple[DraftSource, ...] | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.pipeline = pipeline
        self.stage = stage
        self.is_head = position == 0
        self.is_tail = position == len(pipeline.stages) - 1
        self.failure: str | None = None
        self.has_lost_gpu = False
        self._prefills = prefills
        self.step_activity: Activity | None = None
        self.scheduler = Scheduler(limits(pipeline, stage), sources) if self.is_head else None
        if self.scheduler is not None:
            self.scheduler.speculator.unused = dict(pipeline.unused_drafts)
        previous = pipeline.stages[position - 1]
        self._source = (previous.worker, previous.boot)
        self._idle_load = RunnerLoad()
        self._order = LinkOrder()
        self._steps = 0
        self._tokens = 0
        self._step_tokens = 0
        self._last_step = 0
        self._release = release
        self._prefilled = 0
        self._tokens_metric = TOKENS.labels(pipeline.model)
        trace = StepTrace(trace_dir, identity.name) if trace_dir is not None else None
        self._stats = StepStats(pipeline.model, stage.warmup, self.scheduler, trace)
        self._owners: dict[str, tuple[str, str]] = {}
        self._gateways = GatewayLinks(identity, pipeline.model, pipeline.epoch)
        self._sender: StepSender | None = None
        if len(pipeline.stages) > 1:
            following = pipeline.stages[0 if self.is_tail else position + 1]
            endpoint = at_node(following.address or following.endpoint, following.node)
            link = Push(identity, endpoint, link_deadline_s, monitored=True)
            self._sender = StepSender(link, pipeline.epoch)

    def is_planned_sender(self, envelope: Envelope) -> bool:
        """Returns whether a step comes from the process that the plan names as its sender."""
        worker, boot = self._source
        return not boot or (envelope.boot == boot and envelope.sender == worker)

    # Messages in -----------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """Handles a whole message of this epoch."""
        if self.failure is not None:
            return
        body = message.envelope.body
        try:
            match body:
                case Submit():
                    self._submit(body, message)
                case Cancel() if self.scheduler is not None:
                    self.scheduler.cancel(body.request, body.attempt)
                case Step() | StepDone():
                    self._check_order(message.envelope)
                    self._handle_step(body, message.envelope.tensors, message.buffers)
                case _:
                    raise ProtocolError(f"a {body.kind} is not for this stage")
        except ProtocolError as error:
            # A wrong message from a gateway is harmless; a wrong step ends the epoch.
            if isinstance(body, Step | StepDone):
                self._fail(error)
            else:
                log.warning("dropped: %s", error)
        except Exception as error:  # a model can raise anything; it ends its epoch, nothing else
            self._fail(error)

    def handle_parts(self, first: Message, rest: MessageRest) -> None:
        """Handles a step whose message came in two parts."""
        envelope = first.envelope
        tensors = envelope.tensors
        try:
            self._check_order(envelope)
            check_sizes(tensors[len(first.buffers) :], rest.buffers)
            buffers = (*first.buffers, *rest.buffers)
            self._handle_step(envelope.body, tensors, buffers, (rest.elapsed_us,))
        except Exception as error:  # as in handle
            self._fail(error)

    def run_next_step(self) -> bool:
        """Runs the next step on the head. Returns False when there is none."""
        if self.scheduler is None or self.failure is not None:
            return False
        try:
            return self._execute(self.scheduler.schedule(time.monotonic()))
        except Exception as error:  # as in handle
            self._fail(error)
            return True

    def limit_caches(self, tokens: int) -> None:
        """Changes the capacity of the caches on the head, which counts it."""
        if self.scheduler is not None:
            self.scheduler.limit_caches(tokens)

    def limit_width(self, tokens: int) -> None:
        """Changes the most tokens of a step with guesses, on the head."""
        if self.scheduler is not None:
            self.scheduler.speculator.max_width = tokens

    def add_source(self, source: DraftSource) -> None:
        """Adds a source of guesses, on the head."""
        if self.scheduler is not None:
            self.scheduler.speculator.add_source(source)

    def refuse_source(self, name: str, reason: str) -> None:
        """Records why a source of guesses is not used, on the head."""
        if self.scheduler is not None:
            self.scheduler.speculator.unused[name] = reason

    def prepare(self) -> bool:
        """Does work in advance while no message waits. Returns False when there is none."""
        self._stats.record()
        if self.failure is not None:
            return False
        try:
            return self.stage.prebuild()
        except Exception as error:  # as in handle
            self._fail(error)
            return False

    def update_idle_load(self) -> None:
        """Checks the link, writes the trace and measures the caches, which is too slow while steps
        run."""
        if self.failure is None and self._sender is not None:
            try:
                self._sender.check()
            except LinkLostError as error:
                self._fail(error)
        self._stats.write()
        contents = self.stage.table()
        packed = orjson.dumps(contents, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS)
        rows = sum(len(lane) for lane in contents["lanes"].values())
        self._idle_load = RunnerLoad(
            sequences=len(contents["sequences"]) + rows,
            cache_bytes=self.stage.cache_bytes(),
            prefix_bytes=self.stage.prefix_bytes(),
            table=f"{self._last_step}:{blake2b(packed, digest_size=8).hexdigest()}",
        )

    def close(self, reason: str) -> None:
        """Rejects all requests with ``reason`` and closes the links."""
        if self.failure is None:
            self._reject_all(reason)
        if self._sender is not None:
            self._sender.close()
        self._gateways.close()
        self._stats.write()

    # For other threads -----------------------------------------------------------------

    @property
    def times(self) -> StepTimes:
        """Step times of this stage."""
        return self._stats.times

    @property
    def busy(self) -> bool:
        """True while a step runs."""
        return self.step_activity is not None

    @property
    def speculation(self) -> SpeculationStatus | None:
        """Counts of guessed tokens, on the head."""
        return self.scheduler.speculator.status() if self.scheduler else None

    @property
    def load(self) -> RunnerLoad:
        scheduler = self.scheduler
        return replace(
            self._idle_load,
            steps=self._steps,
            compute_us=self._stats.compute_us,
            tokens=self._tokens,
            step_tokens=scheduler.tokens_in_flight if scheduler else self._step_tokens,
            waiting=scheduler.waiting if scheduler else 0,
            active=scheduler.active if scheduler else 0,
            lanes=scheduler.lanes if scheduler else 0,
            prefixes=len(scheduler.prefixes) if scheduler else 0,
            sequence_tokens=scheduler.sequence_tokens if scheduler else 0,
        )

    # Requests --------------------------------------------------------------------------

    def _submit(self, body: Submit, message: Message) -> None:
        if self.scheduler is None:
            raise ProtocolError("a submit is for the head")
        dtypes = [tensor.dtype for tensor in message.envelope.tensors]
        if dtypes not in (["int32"], ["int32", "int32"]):
            raise ProtocolError("a submit has int32 token ids, then at most int32 predicted ids")
        tokens, prediction = (
            memoryview(buffer).cast("B").cast("i").tolist() if len(buffer) else []
            for buffer in (*message.buffers, b"")[:2]
        )
        end = self.pipeline.vocab_size or 2**31
        wrong = next((token for token in tokens if not 0 <= token < end), None)
        if wrong is not None:
            reason = f"token id {wrong} is out of range [0, {end}) of this model's vocabulary"
            rejected = Rejected(body.request, body.attempt, 400, "unknown_token", reason)
            self._gateways.send(body.reply, rejected)
            return
        limit = self.pipeline.prompt_limit
        if limit and len(tokens) > limit:
            reason = (
                f"the prompt of {len(tokens)} tokens is longer than the {limit} that this cluster "
                f"reads: {self.pipeline.prompt_limit_reason}; shorten the prompt"
            )
            rejected = Rejected(body.request, body.attempt, 400, "context_length_exceeded", reason)
            self._gateways.send(body.reply, rejected)
            return
        expected = tuple(token for token in prediction if 0 <= token < end)
        self._note_owner(body.request, message.envelope)
        self._execute(self.scheduler.submit(body, tokens, time.monotonic(), expected))

    def _note_owner(self, request: str, envelope: Envelope) -> None:
        if self.scheduler is not None and len(self._owners) >= MAX_OWNERS:
            known = {submit.request for submit in self.scheduler.requests()}
            self._owners = {x: owner for x, owner in self._owners.items() if x in known}
        self._owners[request] = (envelope.sender, envelope.boot)

    def end_requests_of(self, gateway: str, boot: str) -> None:
        """Ends the requests of a gateway process that is gone, on the head.

        Their caches become cached prefixes, which the same requests find when they are sent again.
        """
        if self.scheduler is None:
            return
        for submit in self.scheduler.requests():
            if self._owners.get(submit.request) == (gateway, boot):
                self.scheduler.cancel(submit.request, submit.attempt)

    def _execute(self, instructions: Iterable[Instruction]) -> bool:
        """Executes the scheduler's instructions in order. Returns True when a step ran."""
        has_run = False
        for instruction in instructions:
            match instruction:
                case SendUpdate():
                    self._gateways.send(instruction.reply, instruction.body)
                case RunStep():
                    self._run_step(instruction.step, (), *_token_frames(instruction))
                    has_run = True
        return has_run

    # Steps -----------------------------------------------------------------------------

    def _handle_step(
        self,
        body: Body,
        tensors: tuple[Tensor, ...],
        buffers: tuple[Buffer, ...],
        sender_us: tuple[int, ...] = (),
    ) -> None:
        """Runs a step that arrived, or reports its end to the scheduler.

        Args:
            sender_us: compute time of the sender, when the body lacks it.
        """
        match body:
            case Step() if not self.is_head:
                self._run_step(body, (*body.elapsed_us, *sender_us), tensors, buffers)
            case StepDone() if self.scheduler is not None and len(tensors) == 1:
                tokens = unpack(tensors[0], buffers[0])
                elapsed_us = (*body.elapsed_us, *sender_us)
                now = time.monotonic()
                self._execute(self.scheduler.step_done(body.step, tokens, elapsed_us, now))
            case _:
                raise ProtocolError(f"a {body.kind} is not for this stage")

    def _run_step(
        self,
        step: Step,
        elapsed_us: tuple[int, ...],
        tensors: Sequence[Tensor],
        buffers: Sequence[Buffer],
    ) -> None:
        """Computes a step and sends its result.

        Args:
            elapsed_us: compute times of the stages before this one.
        """
        began = time.monotonic_ns()
        shape = tensors[0].shape if tensors else ()
        self._step_tokens = prod(shape[:2]) if step.rows else 0
        length = prod(shape[1:2])
        is_prefill = length > 1
        self.step_activity = Activity(
            "prefill" if is_prefill else "decode",
            began / 1e9,
            self._step_tokens if is_prefill else 1,
        )
        if is_prefill and self._prefills is not None:
            self._prefills.begin(step.rows[0], length)
        computation = self.stage.start_step(step, tensors, buffers)
        result = self._result(step, shape, elapsed_us, tensors, buffers, computation)
        sender = self._sender if step.rows or not self.is_tail else None
        if sender is not None:
            sender.send_first_part(result, began, can_wait=computation.is_async)
        output = computation.finish()
        computed = time.monotonic_ns()
        if sender is not None:
            buffers_out = output.buffers
            if self.is_tail:
                buffers_out = (pack(output.sampled, result.tensors[0].shape[0]),)
            sender.send_computed(result, buffers_out, computed - began)
        elif self.scheduler is not None and step.rows:
            all_us = (*elapsed_us, (computed - began) // 1000)
            now = time.monotonic()
            self._execute(self.scheduler.step_done(step.step, output.sampled, all_us, now))
        if self.is_tail:
            self._send_tokens(output)
        alone = self.scheduler is not None and self.scheduler.active == 1
        sent = time.monotonic_ns()
        self._stats.add(StepRecord(step, shape, alone, began, computation.built_ns, computed, sent))
        self._steps += 1
        self._step_tokens = 0
        self._last_step = step.step
        self.step_activity = None
        if is_prefill and self._prefills is not None:
            self._prefills.end()
        if is_prefill and step.lane is None:
            self._end_chunk(length, is_last=step.sample)

    def _end_chunk(self, tokens: int, is_last: bool) -> None:
        """Returns the buffers of a long prefill, which nothing needs after its last chunk."""
        self._prefilled += tokens
        if is_last and self._prefilled >= LONG_PREFILL_TOKENS:
            self._prefilled = 0
            self._release()

    def _result(
        self,
        step: Step,
        shape: tuple[int, ...],
        elapsed_us: tuple[int, ...],
        tensors: Sequence[Tensor],
        buffers: Sequence[Buffer],
        computation: Computation,
    ) -> StepResult:
        """Returns the message to the next stage, or from the tail to the head."""
        if self.is_tail:
            count = prod(shape) if step.guess is not None else len(step.rows)
            sampled = sampled_tensor(count if step.sample else 0)
            return StepResult(step, shape, StepDone(step.step, elapsed_us), (sampled,), ())
        onward = replace(step, elapsed_us=elapsed_us)
        described = (*tensors[:1], *computation.tensors)
        return StepResult(step, shape, onward, described, tuple(buffers[:1]))

    def _send_tokens(self, output: StepOutput) -> None:
        """Sends the tail's results to the gateways, after those to the head, which waits."""
        if output.prompt_result is not None:
            self._gateways.send(output.prompt_result.reply, *output.prompt_result.message)
        by_gateway: dict[str, list[Token]] = {}
        for result in output.token_results:
            by_gateway.setdefault(result.reply, []).append(result.token)
        for reply, tokens in by_gateway.items():
            self._gateways.send(reply, Tokens(tuple(tokens)))
        self._tokens += len(output.token_results)
        self._tokens_metric.inc(len(output.token_results))

    # Failure ---------------------------------------------------------------------------

    def _check_order(self, envelope: Envelope) -> None:
        gap = self._order.gap(envelope)
        if gap is not None:
            raise LinkGapError(envelope.sender, *gap)

    def _fail(self, error: Exception) -> None:
        self.step_activity = None
        self.failure = f"{type(error).__name__}: {error}"
        self.has_lost_gpu = self.has_lost_gpu or is_gpu_failure(error)
        is_expected = isinstance(error, LinkBusyError | LinkGapError | LinkLostError)
        log.error(
            "epoch %d failed: %s",
            self.pipeline.epoch,
            self.failure,
            exc_info=None if is_expected else error,
            extra={"epoch": self.pipeline.epoch},
        )
        self._reject_all(f"the pipeline failed and is being re-formed ({self.failure})")

    def _reject_all(self, reason: str) -> None:
        for submit in self.scheduler.requests() if self.scheduler else ():
            self._gateways.send(submit.reply, epoch_failed(submit, reason))


def epoch_failed(submit: Submit, reason: str) -> Rejected:
    """Returns the rejection that makes a gateway submit the request again in the next epoch."""
    return Rejected(submit.request, submit.attempt, 503, "epoch_failed", reason, 1)


def _token_frames(run: RunStep) -> tuple[tuple[Tensor, ...], tuple[Buffer, ...]]:
    """Encodes token ids as a tensor, int32 (rows, length); none for a step with only ops."""
    if not run.tokens:
        return (), ()
    flat = [token for row in run.tokens for token in row]
    shape = (len(run.tokens), len(run.tokens[0]))
    return (Tensor("int32", shape),), (memoryview(array("i", flat)).cast("B"),)
