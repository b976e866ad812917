"""When a stage sends a step in two parts, and that nothing is lost by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from pomona.messages import codec
from pomona.messages.codec import Buffer, Message, MessageRest
from pomona.messages.control import Pipeline
from pomona.messages.control import Stage as Place
from pomona.messages.pipeline import Envelope, Step, Tensor
from pomona.transport import Identity, Pull
from pomona_stage_worker.engine.send_timing import LEAST_SEEN
from pomona_stage_worker.engine.stage_runner import StageRunner
from pomona_stage_worker.model.mlx_stage import Computation, MlxStage
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.slicing import slice_model
from pomona_stage_worker.testing.emulated import EmulatedStage
from support.doubles.pipeline import InProcessPipeline
from support.models.random_llama import GREEDY, LAYERS, alone, model, prompts

HOLD_S = 0.1
WIDTH = 4
WAIT_S = 5.0
TENSORS = (Tensor("int32", (1, 1)), Tensor("float32", (1, 1, WIDTH)))


class Busy(EmulatedStage):
    """Needs its thread to the end."""

    def start_step(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        return replace(super().start_step(step, tensors, buffers), is_async=False)


class Quick(EmulatedStage):
    def __init__(self, hold_s: float, width: int, is_tail: bool) -> None:
        super().__init__(0.0, width, is_tail)


class Middle:
    """The second of three stages: what comes in is given to it, what goes out is read."""

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
        self._identity = Identity("pomona", "b", "boot")
        self._runtime = StageRunner(self._identity, pipeline, 1, stage, no_limits, WAIT_S)
        self._seq = 0

    def step(self, lane: int | None) -> list[Message | MessageRest]:
        """One step through it: the parts of what it sends."""
        body = Step(self._seq, lane, (1,), True, elapsed_us=(7,))
        version = codec.PROTOCOL_VERSION
        envelope = Envelope(version, "pomona", "a", "boot", 1, self._seq, 1, body, TENSORS)
        self._seq += 1
        self._runtime.handle(Message(envelope, (b"\5\0\0\0", bytes(4 * WIDTH))))
        assert self._runtime.failure is None
        parts: list[Message | MessageRest] = []
        while len(parts) < (1 if not parts or not _later(parts[0]) else 2):
            part = self.pull.receive_part(WAIT_S)
            assert part is not None
            parts.append(part)
        return parts

    def close(self) -> None:
        self._runtime.close("over")
        self.pull.close()


def _later(part: Message | MessageRest) -> int:
    return part.envelope.later if isinstance(part, Message) else 0


def no_limits(pipeline: Pipeline, stage: object) -> SchedulerLimits:
    raise AssertionError("only a head has limits")


@pytest.fixture
def middle(request: pytest.FixtureRequest) -> Iterator[Middle]:
    made = Middle(getattr(request, "param", EmulatedStage))
    yield made
    made.close()


def parts(sent: Sequence[Message | MessageRest]) -> tuple[tuple[int, ...], list[bytes]]:
    """Compute times and buffers, however they came."""
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


def way(sent: Sequence[Message | MessageRest]) -> str:
    first = sent[0]
    assert isinstance(first, Message)
    if len(sent) == 1:
        return ONE_PART
    return SOON if first.envelope.soon else AT_ONCE


def test_a_lone_lane_is_announced_a_moment_before_once_it_is_known(middle: Middle) -> None:
    sent = [middle.step(1) for _ in range(LEAST_SEEN + 3)]
    assert [way(one) for one in sent] == [ONE_PART, *[AT_ONCE] * (LEAST_SEEN - 1), *[SOON] * 3]
    for one in sent:
        elapsed, buffers = parts(one)
        assert elapsed[0] == 7
        assert elapsed[1] >= HOLD_S * 1e6 * 0.99
        assert buffers == [b"\5\0\0\0", bytes(4 * WIDTH)]


@pytest.mark.parametrize("lanes", [(1, 2), (None, None), (1, None)])
def test_other_steps_are_announced_at_once(middle: Middle, lanes: tuple[int | None, ...]) -> None:
    sent = [middle.step(lane) for _ in range(LEAST_SEEN + 2) for lane in lanes]
    assert {way(one) for one in sent[1:]} == {AT_ONCE}


@pytest.mark.parametrize("middle", [Busy], indirect=True)
def test_a_step_that_needs_its_thread_is_never_waited_for(middle: Middle) -> None:
    sent = [middle.step(1) for _ in range(LEAST_SEEN + 3)]
    assert {way(one) for one in sent[1:]} == {AT_ONCE}


@pytest.mark.parametrize("middle", [Quick], indirect=True)
def test_a_step_that_is_over_in_no_time_comes_in_one_part(middle: Middle) -> None:
    ways = [way(middle.step(1)) for _ in range(9)]
    # On a busy machine one may have to wait for a processor.
    assert ways.count(ONE_PART) > 4


class Noting(MlxStage):
    """Remembers which lanes' steps went on without it."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__(slice_model(model(), start, stop))
        self.noted: set[bool] = set()

    def start_step(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        computation = super().start_step(step, tensors, buffers)
        if step.lane is not None:
            self.noted.add(computation.is_async)
        return computation


@pytest.mark.parametrize(("logprobs", "tail_is_async"), [(None, True), (0, False), (5, False)])
def test_a_tail_that_reports_on_its_draws_needs_its_thread(
    logprobs: int | None, tail_is_async: bool
) -> None:
    """Ranking a vocabulary may take longer than a first part goes ahead: a wait would grow from
    step to step."""
    stages = [Noting(0, 1), Noting(1, LAYERS)]
    limits = SchedulerLimits(stages=2, context_length=4096, cache_tokens=20_000)
    line = InProcessPipeline(stages, limits)
    prompt = prompts(1)[0]
    client = line.submit("r", prompt, replace(GREEDY, logprobs=logprobs))
    line.run()
    assert client.tokens == alone(prompt)
    assert [stage.noted for stage in stages] == [{True}, {tail_is_async}]
