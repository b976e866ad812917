"""Stage workers between real processes: what they refuse, what ends an epoch, what they free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from pomona.messages import codec
from pomona.messages.control import Beacon, Pipeline, PlannerFacts, StageWorkerFacts
from pomona.messages.pipeline import Envelope, Step, StepDone, Tensor
from pomona.messages.sampling import Sampling
from pomona_ops.bench.driver import Driver, Reply, active_pipeline
from support.beacon_listener import BeaconListener
from support.processes import DEADLINE_S, Node, ServiceProcess
from support.waiting import wait_until

STAGES = 2
GREEDY = Sampling(max_tokens=20, temperature=0.0)
EMULATED = "stage_worker.testing.emulated"


class Line:
    """A pipeline of emulated stage workers with real discovery and planner."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.node = Node("mac", folder)
        self.workers: list[ServiceProcess] = []
        stack.enter_context(self.node.discovery())
        planner = self.node.environment | {"POMONA_PLANNER_STAGES": str(STAGES)}
        self.planner = stack.enter_context(
            ServiceProcess("planner", folder / "planner.log", planner)
        )
        for index in range(STAGES):
            variables = self.node.environment | {
                "POMONA_STAGE_WORKER_NAME": f"mac.stage_worker.{index}",
                "POMONA_STAGE_WORKER_HOLD_MS": "5",
            }
            log = folder / f"worker{index}.log"
            self.workers.append(stack.enter_context(ServiceProcess(EMULATED, log, variables)))

    def active(self, above: int = 0) -> Pipeline:
        """The active pipeline, of an epoch above the given one."""
        found: list[Pipeline] = []

        def is_new() -> bool:
            found.append(asyncio.run(active_pipeline(self.node.subscribe, "pomona", DEADLINE_S)))
            return found[-1].epoch > above

        wait_until(is_new, f"an active epoch above {above}")
        return found[-1]

    def hear(self, holds: Callable[[dict[str, Beacon]], bool], what: str) -> None:
        """Wait until the newest beacons, by name, are as wanted."""

        async def listen() -> None:
            listener = BeaconListener(self.node.subscribe, "pomona")
            try:
                await listener.wait_until(holds, what)
            finally:
                await listener.close()

        asyncio.run(listen())


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with ExitStack() as stack:
        yield Line(tmp_path_factory.mktemp("line"), stack)


@pytest.fixture
def pipeline(line: Line) -> Pipeline:
    return line.active()


TOKEN = Tensor("int32", (1,))


def worker_facts(beacons: dict[str, Beacon]) -> list[StageWorkerFacts]:
    return [b.facts for b in beacons.values() if isinstance(b.facts, StageWorkerFacts)]


def ask(driver: Driver, length: int = 20, sampling: Sampling = GREEDY) -> Reply:
    return driver.submit(range(1000, 1000 + length), sampling, share=str(time.monotonic_ns()))


def envelope(pipeline: Pipeline, **fields: Any) -> Envelope:
    """A step as the head would send it, but for what the test changes."""
    base = Envelope(
        version=codec.PROTOCOL_VERSION,
        cluster="pomona",
        sender="mac.stage_worker.0",
        boot="impostor",
        link=1,
        seq=0,
        epoch=pipeline.epoch,
        body=Step(1, None, (), False),
    )
    return replace(base, **fields)


def send_raw(endpoint: str, *messages: list[Any]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.setsockopt(zmq.LINGER, 2000)
    socket.connect(endpoint)
    for frames in messages:
        socket.send_multipart(frames)
    socket.close()
    context.term()


def test_a_request_runs_and_the_stages_tables_agree(line: Line, pipeline: Pipeline) -> None:
    with Driver(pipeline, "pomona") as driver:
        replies = [ask(driver, 10 + 30 * n) for n in range(6)]
        driver.collect(replies, DEADLINE_S)
    assert [len(reply.tokens) for reply in replies] == [20] * 6

    def agree(beacons: dict[str, Beacon]) -> bool:
        facts = worker_facts(beacons)
        tables = {f.table for f in facts}
        return len(facts) == STAGES and len(tables) == 1 and all(f.sequences == 0 for f in facts)

    line.hear(agree, "both stages hold the same caches")


def receive_until(driver: Driver, condition: Callable[[], object], description: str) -> None:
    """Receives the head's messages until a condition holds."""

    def received() -> object:
        driver.receive(0.1)
        return condition()

    wait_until(received, description)


def test_a_cancelled_request_is_freed_in_every_stage_within_a_second(
    line: Line, pipeline: Pipeline
) -> None:
    with Driver(pipeline, "pomona") as driver:
        reply = ask(driver, sampling=replace(GREEDY, max_tokens=5000))
        receive_until(driver, lambda: len(reply.tokens) >= 10, "ten tokens")
        driver.cancel(reply)
        cancelled_at = time.monotonic()

        def free(beacons: dict[str, Beacon]) -> bool:
            facts = worker_facts(beacons)
            return len(facts) == STAGES and all(f.sequences == 0 for f in facts)

        line.hear(free, "no stage holds the sequence")
        # A beacon comes once a second, so freeing within one shows within two.
        assert time.monotonic() - cancelled_at < 2.5


def test_bytes_that_are_no_message_harm_nobody(pipeline: Pipeline) -> None:
    good = codec.encode_message(envelope(pipeline))
    for stage in pipeline.stages:
        send_raw(
            stage.endpoint,
            [b"x"],
            [b"{}", b"", b"\xff" * 100],
            [b"\x80\x04K\x01."],
            [b"impostor/1/0", b"of what was never begun"],
            [b"impostor/1/0 5", b"of what was never begun"],
            codec.encode_message(envelope(pipeline, tensors=(TOKEN,), later=1)),
            [bytes(good[0])[:-2]],
            [*good, b"one frame too many"],
            codec.encode_message(envelope(pipeline, version=99)),
            codec.encode_message(envelope(pipeline, cluster="other")),
            codec.encode_message(envelope(pipeline, epoch=pipeline.epoch + 7)),
            codec.encode_message(
                envelope(pipeline, tensors=(Tensor("float32", (2**30, 2**30)),)), [b""]
            ),
        )
    with Driver(pipeline, "pomona") as driver:
        reply = ask(driver)
        driver.collect([reply], DEADLINE_S)
    assert len(reply.tokens) == 20


def test_a_token_id_that_the_model_does_not_have_is_refused(pipeline: Pipeline) -> None:
    with Driver(pipeline, "pomona") as driver:
        for wrong in (-1, 10**9, pipeline.vocab_size):
            reply = driver.submit([1, 2, wrong], GREEDY)
            receive_until(driver, lambda reply=reply: reply.refusal, "a refusal")
            assert reply.refusal is not None
            assert str(wrong) in reply.refusal
        good = ask(driver)
        driver.collect([good], DEADLINE_S)


def test_a_submit_for_another_epoch_is_answered_at_once(pipeline: Pipeline) -> None:
    with Driver(replace(pipeline, epoch=pipeline.epoch + 100), "pomona") as driver:
        reply = ask(driver)
        driver.receive(DEADLINE_S)
        assert reply.refusal is not None


DONE = {"body": StepDone(1, ()), "tensors": (Tensor("int64", (1, 3)),)}
FIRST_TOKEN = {"tensors": (TOKEN,)}
WRONG_PARTS: dict[str, tuple[int, dict[str, Any], list[bytes]]] = {
    "too short": (1, FIRST_TOKEN, [b"impostor/1/0 5", b"abc"]),
    "too many": (1, FIRST_TOKEN, [b"impostor/1/0 5", b"abcd", b"abcd"]),
    "no drawn tokens": (0, DONE, [b"impostor/1/0 5", b"\xff" * 24]),
    "for another stage": (1, DONE, [b"impostor/1/0 5", bytes(24)]),
}
"""To which stage, what the first part has, and the second."""


@pytest.mark.parametrize("wrong", ["gap", *WRONG_PARTS])
def test_what_is_wrong_on_a_link_ends_the_epoch_and_the_next_one_serves(
    line: Line, pipeline: Pipeline, wrong: str
) -> None:
    """A gap in its numbers, or a message of which the second part does not fit the first."""
    stage, messages = 1, [codec.encode_message(envelope(pipeline, seq=5))]
    if wrong in WRONG_PARTS:
        stage, fields, rest = WRONG_PARTS[wrong]
        messages = [codec.encode_message(envelope(pipeline, later=1, **fields)), rest]
    with Driver(pipeline, "pomona") as driver:
        running = ask(driver, sampling=replace(GREEDY, max_tokens=5000))
        receive_until(driver, lambda: len(running.tokens) >= 5, "five tokens")
        send_raw(pipeline.stages[stage].endpoint, *messages)
        receive_until(driver, lambda: running.refusal, "a refusal")
    following = line.active(above=pipeline.epoch)
    with Driver(following, "pomona") as driver:
        reply = ask(driver)
        driver.collect([reply], DEADLINE_S)
    assert len(reply.tokens) == 20


def test_a_tail_that_is_killed_ends_its_requests_and_its_return_serves_again(line: Line) -> None:
    before = line.active()
    with Driver(before, "pomona") as driver:
        running = ask(driver, sampling=replace(GREEDY, max_tokens=5000))
        receive_until(driver, lambda: len(running.tokens) >= 5, "five tokens")
        line.workers[-1].kill()
        receive_until(driver, lambda: running.refusal, "a refusal")
    line.workers[-1].start()
    following = line.active(above=before.epoch)
    with Driver(following, "pomona") as driver:
        reply = ask(driver)
        driver.collect([reply], DEADLINE_S)
    assert len(reply.tokens) == 20


def test_a_planner_that_is_gone_stops_planning_not_serving(tmp_path: Path) -> None:
    with ExitStack() as stack:
        own = Line(tmp_path, stack)
        pipeline = own.active()
        own.planner.kill()
        with Driver(pipeline, "pomona") as driver:
            reply = ask(driver)
            driver.collect([reply], DEADLINE_S)
        assert len(reply.tokens) == 20
        own.planner.start()

        def same(beacons: dict[str, Beacon]) -> bool:
            planner = beacons.get("mac.planner")
            return (
                planner is not None
                and isinstance(planner.facts, PlannerFacts)
                and planner.facts.pipelines[0].state == "active"
                and planner.facts.pipelines[0].epoch == pipeline.epoch
            )

        own.hear(same, "the planner takes up the epoch that is running")
