"""An ended stage is freed by reference counting alone, since the collector may not see it."""

from __future__ import annotations

import gc
import weakref
from array import array
from collections.abc import Generator
from functools import partial
from itertools import pairwise

import mlx.core as mx
import pytest

from pomona.messages import codec
from pomona.messages.control import Pipeline
from pomona.messages.control import Stage as Place
from pomona.messages.pipeline import Envelope, Submit, Tensor, Tokens
from pomona.transport import Identity, Pull
from pomona_stage_worker.engine import stage_runner
from pomona_stage_worker.engine.stage_runner import StageRunner
from pomona_stage_worker.hardware.metal_memory import MetalMemory
from pomona_stage_worker.model.mlx_stage import MlxStage, Stage
from pomona_stage_worker.model.warmup import warm_up
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.slicing import slice_model
from support.doubles.pipeline import InProcessPipeline
from support.models.random_llama import CUTS, GREEDY, LAYERS, REPLY, VOCABULARY, model, prompts
from support.waiting import wait_until

LIMITS = SchedulerLimits(stages=1, context_length=4096, cache_tokens=20_000, min_prefix=4)


@pytest.fixture(autouse=True)
def no_collector() -> Generator[None]:
    model()
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("bounds", CUTS)
def test_stages_that_ran_leave_no_memory_behind(bounds: tuple[int, ...]) -> None:
    before = mx.get_active_memory()
    stages: list[Stage] = []
    for start, stop in pairwise(bounds):
        sliced = slice_model(model(), start, stop)
        stages.append(MlxStage(sliced, warmup=warm_up(sliced), builds_beside=True))
        del sliced
    ended = [weakref.ref(stage) for stage in stages]
    line = InProcessPipeline(stages, LIMITS)
    clients = [line.submit(f"r{n}", prompt, GREEDY) for n, prompt in enumerate(prompts(5))]
    line.run()
    assert all(len(client.tokens) == REPLY for client in clients)
    assert mx.get_active_memory() > before
    del stages, line, clients
    assert [stage() for stage in ended] == [None] * len(ended)
    # MLX's own threads may still hold an array of the last evaluation.
    wait_until(lambda: mx.get_active_memory() <= before, "the memory of the stages is free")


def test_steps_keep_nothing_but_the_caches() -> None:
    stage = MlxStage(slice_model(model(), 0, LAYERS))
    line = InProcessPipeline([stage], LIMITS)
    line.submit("first", prompts(1)[0], GREEDY)
    line.run()
    after_one = mx.get_active_memory()
    for number in range(8):
        line.submit(f"r{number}", prompts(1)[0], GREEDY)
        line.run()
    most = after_one + stage.cache_bytes()
    wait_until(lambda: mx.get_active_memory() <= most, "steps keep only what the caches hold")


def test_a_closed_runner_is_freed_with_its_stage() -> None:
    identity = Identity("pomona", "a", "boot")
    gateway = Pull("127.0.0.1")
    place = Place("a", 0, LAYERS, "tcp://127.0.0.1:9")
    pipeline = Pipeline("m", "m", 1, LAYERS, "active", (place,), vocab_size=VOCABULARY)
    stage = MlxStage(slice_model(model(), 0, LAYERS))
    runner = StageRunner(identity, pipeline, 0, stage, _limits, 3.0)
    ended = [weakref.ref(stage), weakref.ref(runner)]
    prompt = prompts(1)[0]
    body = Submit("r", 1, "m", gateway.endpoint, GREEDY)
    tensor = Tensor("int32", (len(prompt),))
    envelope = Envelope(
        codec.PROTOCOL_VERSION, "pomona", "gateway", "boot", 1, 0, 1, body, (tensor,)
    )
    runner.handle(codec.Message(envelope, (memoryview(array("i", prompt)).cast("B"),)))
    assert runner.failure is None
    received: list[int] = []

    def has_reply(runner: StageRunner) -> bool:
        runner.run_next_step()
        message = gateway.receive_part(0.01)
        if isinstance(message, codec.Message) and isinstance(message.envelope.body, Tokens):
            received.extend(token.token for token in message.envelope.body.tokens)
        return len(received) == REPLY

    wait_until(partial(has_reply, runner), "a whole reply")
    runner.close("the test ends")
    del runner, stage
    assert [item() for item in ended] == [None, None]
    gateway.close()


@pytest.mark.parametrize(("prompt", "expected"), [(200, 1), (60, 0)])
def test_memory_is_given_back_once_after_the_last_chunk_of_a_long_prefill(
    prompt: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_runner, "LONG_PREFILL_TOKENS", 128)
    calls: list[str] = []
    memory = MetalMemory(RecordingAllocator(calls), 2**30, 2**31)
    calls.clear()
    gateway = Pull("127.0.0.1")
    place = Place("a", 0, LAYERS, "tcp://127.0.0.1:9")
    pipeline = Pipeline("m", "m", 1, LAYERS, "active", (place,), vocab_size=VOCABULARY)
    stage = MlxStage(slice_model(model(), 0, LAYERS))
    identity = Identity("pomona", "a", "boot")
    runner = StageRunner(identity, pipeline, 0, stage, _limits, 3.0, release=memory.release)
    body = Submit("r", 1, "m", gateway.endpoint, GREEDY)
    tensor = Tensor("int32", (prompt,))
    envelope = Envelope(
        codec.PROTOCOL_VERSION, "pomona", "gateway", "boot", 1, 0, 1, body, (tensor,)
    )
    ids = array("i", [1 + n % (VOCABULARY - 2) for n in range(prompt)])
    runner.handle(codec.Message(envelope, (memoryview(ids).cast("B"),)))
    while runner.load.active or runner.load.waiting:
        runner.run_next_step()
    assert runner.failure is None
    assert calls == ["synchronize", "clear_cache"] * expected
    runner.close("the test ends")
    gateway.close()


class RecordingAllocator:
    """Records the names of MLX's functions that are called."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def set_wired_limit(self, limit: int) -> int:
        self._calls.append("set_wired_limit")
        return 0

    def set_cache_limit(self, limit: int) -> int:
        self._calls.append("set_cache_limit")
        return 0

    def clear_cache(self) -> None:
        self._calls.append("clear_cache")

    def synchronize(self) -> None:
        self._calls.append("synchronize")


def _limits(pipeline: Pipeline, stage: Stage) -> SchedulerLimits:
    return LIMITS
