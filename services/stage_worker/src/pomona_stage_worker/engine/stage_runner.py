"""A stage in its pipeline: messages in, steps run, messages out, for one epoch."""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import orjson
from prometheus_client import Counter

from pomona.errors import LinkBusyError, LinkGapError, PomonaError, ProtocolError
from pomona.messages.codec import Buffer, Message, MessageRest, check_sizes
from pomona.messages.control import Pipeline
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
from pomona_stage_worker.engine.send_timing import SendTimer
from pomona_stage_worker.engine.step_stats import StepBook
from pomona_stage_worker.engine.step_timing import StepRecord, Timing
from pomona_stage_worker.engine.step_trace import StepTrace
from pomona_stage_worker.model.mlx_stage import Computation, Stage, StepOutput
from pomona_stage_worker.sampling.sampled_tensors import pack, sampled_tensor, unpack
from pomona_stage_worker.scheduler import PlannedStep, Scheduler, SchedulerLimits

log = logging.getLogger(__name__)

MAX_GATEWAY_LINKS = 64
LAST_WORD_S = 1.0
"""How long a rejection may take to leave when its epoch ends."""

TOKENS = Counter("pomona_stage_tokens", "Tokens drawn by the tail", ["model_name"])
LOST_TOKENS = Counter(
    "pomona_stage_lost_messages", "Messages that a gateway could not take", ["model_name"]
)


@dataclass(frozen=True, slots=True)
class RunnerLoad:
    """What is going on in a runtime. The last three are as of the last moment of rest."""

    steps: int = 0
    tokens: int = 0
    waiting: int = 0
    active: int = 0
    lanes: int = 0
    prefixes: int = 0
    sequence_tokens: int = 0
    sequences: int = 0
    cache_bytes: int = 0
    table: str = ""


class StageRunner:
    """One stage of one pipeline in one epoch. Used by the step thread only, but for ``load``.

    Args:
        pipeline: the plan; ``position`` is the index of this stage in it.
        limits: makes the scheduler's limits when this is the head.
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
    ) -> None:
        self.pipeline = pipeline
        self.stage = stage
        self.is_head = position == 0
        self.is_tail = position == len(pipeline.stages) - 1
        self.failure: str | None = None
        self.busy = False
        self._at_rest = RunnerLoad()
        self._identity = identity
        self._order = LinkOrder()
        self._gateways: dict[str, Push] = {}
        self._steps = 0
        self._tokens = 0
        self._last_step = 0
        self._tokens_metric = TOKENS.labels(pipeline.model)
        self.scheduler = Scheduler(limits(pipeline, stage)) if self.is_head else None
        trace = StepTrace(trace_dir, identity.name) if trace_dir is not None else None
        self._book = StepBook(pipeline.model, stage.warmup, self.scheduler, trace)
        self._foresight = SendTimer()
        self._onward: Push | None = None
        if len(pipeline.stages) > 1:
            following = pipeline.stages[0 if self.is_tail else position + 1]
            self._onward = Push(identity, following.address or following.endpoint, link_deadline_s)

    # Messages in -----------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """Take in a message of this epoch. A failure ends the epoch, not the process."""
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
                    self._take(body, message.envelope.tensors, message.buffers)
                case _:
                    raise ProtocolError(f"a {body.kind} is not for this stage")
        except ProtocolError as error:
            self._fail_if_fatal(error, body)
        except Exception as error:  # whatever a model raises ends its epoch, nothing else
            self._fail(error)

    def complete(self, message: Message, rest: MessageRest) -> None:
        """As :meth:`handle`, of a message whose last buffers came apart from it."""
        envelope = message.envelope
        tensors = envelope.tensors
        try:
            self._check_order(envelope)
            check_sizes(tensors[len(message.buffers) :], rest.buffers)
            buffers = (*message.buffers, *rest.buffers)
            self._take(envelope.body, tensors, buffers, (rest.elapsed_us,))
        except Exception as error:  # as in handle
            self._fail(error)

    def advance(self) -> bool:
        """On the head: run the next step, if there is one. True when there was."""
        if self.scheduler is None or self.failure is not None:
            return False
        try:
            planned = self.scheduler.next_step(time.monotonic())
            for notice in self.scheduler.take_notices():
                self._tell(notice.reply, notice.body)
            if planned is None:
                return False
            self._run(planned.step, (), *_frames(planned))
        except Exception as error:  # as in handle
            self._fail(error)
        return True

    def limit_caches(self, tokens: int) -> None:
        """Caches may hold so many tokens from now on; on the head, which counts them."""
        if self.scheduler is not None:
            self.scheduler.limit_caches(tokens)

    def prepare(self) -> bool:
        """Use a moment in which nothing has arrived. False when there is nothing to prepare."""
        self._book.record()
        if self.failure is not None:
            return False
        try:
            return self.stage.prebuild()
        except Exception as error:  # as in handle
            self._fail(error)
            return False

    @property
    def timing(self) -> Timing:
        """How long steps take here."""
        return self._book.timing

    @property
    def load(self) -> RunnerLoad:
        """What is going on, as other threads may see it."""
        scheduler = self.scheduler
        return replace(
            self._at_rest,
            steps=self._steps,
            tokens=self._tokens,
            waiting=scheduler.waiting if scheduler else 0,
            active=scheduler.active if scheduler else 0,
            lanes=scheduler.lanes if scheduler else 0,
            prefixes=len(scheduler.prefixes) if scheduler else 0,
            sequence_tokens=scheduler.sequence_tokens if scheduler else 0,
        )

    def rest(self) -> None:
        """Nothing is to be done: take stock of what is too costly at any other time."""
        self._book.write()
        contents = self.stage.table()
        packed = orjson.dumps(contents, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS)
        rows = sum(len(lane) for lane in contents["lanes"].values())
        self._at_rest = RunnerLoad(
            sequences=len(contents["sequences"]) + rows,
            cache_bytes=self.stage.cache_bytes(),
            table=f"{self._last_step}:{blake2b(packed, digest_size=8).hexdigest()}",
        )

    def close(self, reason: str) -> None:
        """End the epoch here: whoever waits is told, links are closed."""
        if self.scheduler is not None and self.failure is None:
            self._reject_all(reason)
        if self._onward is not None:
            self._onward.close()
        for link in self._gateways.values():
            link.close(linger_s=LAST_WORD_S)
        self._book.write()

    # Steps -----------------------------------------------------------------------------

    def _take(
        self,
        body: Body,
        tensors: tuple[Tensor, ...],
        buffers: tuple[Buffer, ...],
        own_us: tuple[int, ...] = (),
    ) -> None:
        """A step has come, or its end. Args: own_us: compute time of its sender, when the body
        lacks it."""
        match body:
            case Step() if not self.is_head:
                self._run(body, (*body.elapsed_us, *own_us), tensors, buffers)
            case StepDone() if self.scheduler is not None and len(tensors) == 1:
                tokens = unpack(tensors[0], buffers[0])
                self.scheduler.step_done(body.step, tokens, (*body.elapsed_us, *own_us))
            case _:
                raise ProtocolError(f"a {body.kind} is not for this stage")

    def _run(
        self,
        step: Step,
        elapsed_us: tuple[int, ...],
        tensors: Sequence[Tensor],
        buffers: Sequence[Buffer],
    ) -> None:
        """Args: elapsed_us: compute time of the stages before this one."""
        self.busy = True
        begin = time.monotonic_ns()
        computation = self.stage.start_step(step, tensors, buffers)
        shape = tensors[0].shape if tensors else ()
        announce_s = self._foresight.announce_after(step.lane, shape) if step.rows else None
        waited_s = 0.0
        known = () if self.is_tail else tuple(buffers[:1])
        if self._onward is not None and announce_s is not None:
            waited_s = _wait(begin / 1e9, announce_s) if computation.is_async else 0.0
            result = self._result(step, elapsed_us, tensors, computation)
            self._onward.send_first_part(*result, known, soon=waited_s > 0.0)
        output = computation.finish()
        computed = time.monotonic_ns()
        own_us = (computed - begin) // 1000
        made = (pack(output.sampled),) if self.is_tail else output.buffers
        if self._onward is not None and announce_s is not None:
            self._onward.send_rest(own_us, made)
        elif self._onward is not None and (step.rows or not self.is_tail):
            result = self._result(step, (*elapsed_us, own_us), tensors, computation)
            self._onward.send(*result, (*known, *made))
        elif self.scheduler is not None and step.rows:
            self.scheduler.step_done(step.step, output.sampled, (*elapsed_us, own_us))
        if self.is_tail:
            self._tell_gateways(output)
        if step.rows:
            self._foresight.took(step.lane, shape, (computed - begin) / 1e9, waited_s)
        alone = self.scheduler is not None and self.scheduler.active == 1
        self._book.add(
            StepRecord(
                step, shape, alone, begin, computation.built_ns, computed, time.monotonic_ns()
            )
        )
        self._steps += 1
        self._last_step = step.step
        self.busy = False

    def _result(
        self,
        step: Step,
        elapsed_us: tuple[int, ...],
        tensors: Sequence[Tensor],
        computation: Computation,
    ) -> tuple[Body, int, tuple[Tensor, ...]]:
        """What goes to the next stage, or from the tail to the head: body, epoch and tensors."""
        if self.is_tail:
            drawn = sampled_tensor(len(step.rows) if step.sample else 0)
            return StepDone(step.step, elapsed_us), self.pipeline.epoch, (drawn,)
        onward = Step(step.step, step.lane, step.rows, step.sample, step.ops, elapsed_us)
        return onward, self.pipeline.epoch, (*tensors[:1], *computation.tensors)

    def _tell_gateways(self, output: StepOutput) -> None:
        """On the tail, after the head, which waits."""
        if output.prompt_result is not None:
            self._tell(output.prompt_result.reply, *output.prompt_result.message)
        by_gateway: dict[str, list[Token]] = {}
        for result in output.token_results:
            by_gateway.setdefault(result.reply, []).append(result.token)
        for reply, tokens in by_gateway.items():
            self._tell(reply, Tokens(tuple(tokens)))
        self._tokens += len(output.token_results)
        self._tokens_metric.inc(len(output.token_results))

    def _submit(self, body: Submit, message: Message) -> None:
        if self.scheduler is None:
            raise ProtocolError("a submit is for the head")
        if [tensor.dtype for tensor in message.envelope.tensors] != ["int32"]:
            raise ProtocolError("a submit has one tensor, int32 token ids")
        tokens = memoryview(message.buffers[0]).cast("B").cast("i").tolist()
        end = self.pipeline.vocab_size or 2**31
        wrong = next((token for token in tokens if not 0 <= token < end), None)
        if wrong is not None:
            reason = f"{wrong} is no token of this model, whose ids lie from 0 to {end - 1}"
            self._tell(
                body.reply,
                Rejected(body.request, body.attempt, 400, "unknown_token", reason),
            )
            return
        self.scheduler.submit(body, tokens, time.monotonic())

    # Messages out ----------------------------------------------------------------------

    def _tell(
        self,
        reply: str,
        body: Body,
        tensors: tuple[Tensor, ...] = (),
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """Send to a gateway without ever waiting for it."""
        link = self._gateways.get(reply)
        try:
            if link is None:
                if len(self._gateways) >= MAX_GATEWAY_LINKS:
                    self._gateways.pop(next(iter(self._gateways))).close()
                link = self._gateways[reply] = Push(self._identity, reply, patient=True)
            link.send(body, self.pipeline.epoch, tensors, buffers, wait=False)
        except PomonaError as error:
            LOST_TOKENS.labels(self.pipeline.model).inc()
            log.warning("a gateway cannot be told: %s", error)

    # Failure ---------------------------------------------------------------------------

    def _check_order(self, envelope: Envelope) -> None:
        gap = self._order.gap(envelope)
        if gap is not None:
            raise LinkGapError(envelope.sender, *gap)

    def _fail_if_fatal(self, error: ProtocolError, body: Body) -> None:
        """What a gateway sends wrongly harms nobody; a step that is wrong ends the epoch."""
        if isinstance(body, Step | StepDone):
            self._fail(error)
        else:
            log.warning("dropped: %s", error)

    def _fail(self, error: Exception) -> None:
        self.busy = False
        self.failure = f"{type(error).__name__}: {error}"
        expected = isinstance(error, LinkBusyError | LinkGapError)
        log.error(
            "epoch %d failed: %s",
            self.pipeline.epoch,
            self.failure,
            exc_info=None if expected else error,
            extra={"epoch": self.pipeline.epoch},
        )
        self._reject_all(f"the pipeline failed and is being formed again ({self.failure})")

    def _reject_all(self, reason: str) -> None:
        for submit in self.scheduler.requests() if self.scheduler else ():
            self._tell(submit.reply, rejected_epoch(submit, reason))


def _wait(begin: float, seconds: float) -> float:
    """Sleep until ``seconds`` after ``begin``, of time.monotonic, unless they have passed.

    Returns: how long after it that ended; 0 without sleep.
    """
    left = begin + seconds - time.monotonic()
    if left <= 0.0:
        return 0.0
    time.sleep(left)
    return time.monotonic() - begin


def rejected_epoch(submit: Submit, reason: str) -> Rejected:
    """Tells a gateway to submit again in the next epoch."""
    return Rejected(submit.request, submit.attempt, 503, "epoch_failed", reason, 1)


def _frames(planned: PlannedStep) -> tuple[tuple[Tensor, ...], tuple[Buffer, ...]]:
    """Token ids as a tensor, int32 (rows, length)."""
    if not planned.tokens:
        return (), ()
    flat = [token for row in planned.tokens for token in row]
    shape = (len(planned.tokens), len(planned.tokens[0]))
    return (Tensor("int32", shape),), (memoryview(array("i", flat)).cast("B"),)
