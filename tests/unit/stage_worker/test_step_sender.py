"""The result of a step is sent in one part or two, and is complete either way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from pomona.errors import AddressInUseError
from pomona.messages import codec
from pomona.messages.codec import Buffer, Message, MessageRest
from pomona.messages.control import Pipeline
from pomona.messages.control import Stage as Place
from pomona.messages.pipeline import Envelope, Step, Tensor
from pomona.transport import Identity, Pull
from pomona_stage_worker.engine.send_timing import MIN_STEPS
from pomona_stage_worker.engine.stage_runner import StageRunner
from pomona_stage_worker.model.mlx_stage import Computation, MlxStage
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.slicing import slice_model
from pomona_stage_worker.testing.emulated import EmulatedStage
from support.doubles.pipeline import InProcessPipeline
from support.models.random_llama import GREEDY, LAYERS, model, prompts, reference_ids
from support.waiting import wait_until

HOLD_S = 0.1
WIDTH = 4
WAIT_S = 30.0
TENSORS = (Tensor("int32", (1, 1)), Tensor("float32", (1, 1, WIDTH)))


class BusyStage(EmulatedStage):
    """A stage whose computation blocks its thread until the end."""

    def start_step(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        return replace(super().start_step(step, tensors, buffers), is_async=False)


class InstantStage(EmulatedStage):
    """Computes a step in no time."""

    def __init__(self, hold_s: float, width: int, is_tail: bool) -> None:
        super().__init__(0.0, width, is_tail)


class MiddleStage:
    """The second of three stages, with the test in place of the others."""

    def __init__(self, kind: type[EmulatedStage]) -> None:
        self.pull = Pull("127.0.0.1")
        nowhere = "tcp://127.0.0.1:9"
        places = (
            Place("a", 0, 1, nowhere),
            Place("b", 1, 2, nowhere),
            Place("c", 2, 3, self.pull.endpoint),
        )
        pipeline = Pipeline("m", "m", 1, 3, "active", places)
        stage = kind(HOLD_S, WIDTH, is_tail=False)
        identity = Identity("pomona", "b", "boot")
        self._runner = StageRunner(identity, pipeline, 1, stage, no_limits, WAIT_S)
        self._seq = 0

    def step(self, lane: int | None) -> list[Message | MessageRest]:
        """Runs one step. Returns the parts of the message with its result."""
        body = Step(self._seq, lane, (1,), True, elapsed_us=(7,))
        version = codec.PROTOCOL_VERSION
        envelope = Envelope(version, "pomona", "a", "boot", 1, self._seq, 1, body, TENSORS)
        self._seq += 1
        self._runner.handle(Message(envelope, (b"\5\0\0\0", bytes(4 * WIDTH))))
        assert self._runner.failure is None
        parts: list[Message | MessageRest] = []
        while len(parts) < (1 if not parts or not _later(parts[0]) else 2):
            part = self.pull.receive_part(WAIT_S)
            assert part is not None
            parts.append(part)
        return parts

    def failure_when_idle(self) -> str | None:
        self._runner.update_idle_load()
        return self._runner.failure

    def close(self) -> None:
        self._runner.close("the test is over")
        self.pull.close()


def _later(part: Message | MessageRest) -> int:
    return part.envelope.later if isinstance(part, Message) else 0


def no_limits(pipeline: Pipeline, stage: object) -> SchedulerLimits:
    raise AssertionError("only a head has limits")


@pytest.fixture
def middle(request: pytest.FixtureRequest) -> Iterator[MiddleStage]:
    stage = MiddleStage(getattr(request, "param", EmulatedStage))
    yield stage
    stage.close()


def content(sent: Sequence[Message | MessageRest]) -> tuple[tuple[int, ...], list[bytes]]:
    """Returns compute times and buffers, from one part or two."""
    buffers: list[Buffer] = []
    elapsed: tuple[int, ...] = ()
    for part in sent:
        buffers += part.buffers
        if isinstance(part, MessageRest):
            elapsed = (*elapsed, part.elapsed_us)
        elif isinstance(part.envelope.body, Step):
            elapsed = (*elapsed, *part.envelope.body.elapsed_us)
    return elapsed, [bytes(buffer) for buffer in buffers]


ONE_PART, AT_ONCE, SOON = "one part", "at once", "soon"


def timing(sent: Sequence[Message | MessageRest]) -> str:
    first = sent[0]
    assert isinstance(first, Message)
    if len(sent) == 1:
        return ONE_PART
    return SOON if first.envelope.soon else AT_ONCE


def test_first_part_of_a_lone_lane_is_sent_just_before_the_end_once_it_is_measured(
    middle: MiddleStage,
) -> None:
    sent = [middle.step(1) for _ in range(MIN_STEPS + 3)]
    assert [timing(message) for message in sent] == [
        ONE_PART,
        *[AT_ONCE] * (MIN_STEPS - 1),
        *[SOON] * 3,
    ]
    for message in sent:
        elapsed, buffers = content(message)
        assert elapsed[0] == 7
        assert elapsed[1] >= HOLD_S * 1e6 * 0.99
        assert buffers == [b"\5\0\0\0", bytes(4 * WIDTH)]


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [(1, 2), (None, None), (1, None)])
def test_first_part_of_other_steps_is_sent_at_once(
    middle: MiddleStage, lanes: tuple[int | None, ...]
) -> None:
    sent = [middle.step(lane) for _ in range(MIN_STEPS + 2) for lane in lanes]
    assert {timing(message) for message in sent[1:]} == {AT_ONCE}


@pytest.mark.parametrize("middle", [BusyStage], indirect=True)
def test_first_part_is_sent_at_once_when_the_step_needs_its_thread(middle: MiddleStage) -> None:
    sent = [middle.step(1) for _ in range(MIN_STEPS + 3)]
    assert {timing(message) for message in sent[1:]} == {AT_ONCE}


@pytest.mark.parametrize("middle", [InstantStage], indirect=True)
def test_very_short_step_is_sent_in_one_part(middle: MiddleStage) -> None:
    timings = [timing(middle.step(1)) for _ in range(9)]
    # On a busy machine a step may have to wait for a processor.
    assert timings.count(ONE_PART) > 4


class RecordingStage(MlxStage):
    """Records whether decode steps go on without their thread."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__(slice_model(model(), start, stop))
        self.is_async: set[bool] = set()

    def start_step(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        computation = super().start_step(step, tensors, buffers)
        if step.lane is not None:
            self.is_async.add(computation.is_async)
        return computation


@pytest.mark.parametrize(("logprobs", "tail_goes_on"), [(None, True), (0, False), (5, False)])
def test_tail_that_returns_logprobs_needs_its_thread(
    logprobs: int | None, tail_goes_on: bool
) -> None:
    """Ranking a vocabulary may take longer than the lead of a first part; a wait would then grow
    from step to step."""
    stages = [RecordingStage(0, 1), RecordingStage(1, LAYERS)]
    limits = SchedulerLimits(stages=2, context_length=4096, cache_tokens=20_000)
    pipeline = InProcessPipeline(stages, limits)
    prompt = prompts(1)[0]
    client = pipeline.submit("r", prompt, replace(GREEDY, logprobs=logprobs))
    pipeline.run()
    assert client.tokens == reference_ids(prompt)
    assert [stage.is_async for stage in stages] == [{True}, {tail_goes_on}]


def test_an_epoch_fails_when_a_link_lost_its_connection_and_made_it_again(
    middle: MiddleStage,
) -> None:
    middle.step(1)
    assert middle.failure_when_idle() is None
    port = int(middle.pull.endpoint.rpartition(":")[2])
    middle.pull.close()

    def bind_again() -> bool:
        try:
            middle.pull = Pull("127.0.0.1", port)
        except AddressInUseError:  # ZeroMQ closes the former socket in a thread of its own.
            return False
        return True

    wait_until(bind_again, "the port is free again")
    wait_until(middle.failure_when_idle, "the epoch has failed")
    assert "was lost" in str(middle.failure_when_idle())
