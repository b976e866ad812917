"""Stage workers as real processes: requests, rejected messages, failing epochs, freed caches."""

from __future__ import annotations

import asyncio
import re
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
from pomona.transport import BeaconReceiver, installed, use
from pomona.transport.curve import be_client
from pomona_ops.bench.driver import Driver, Reply, active_pipeline
from support.beacon_listener import metrics_of
from support.processes import DEADLINE_S, Node, ServiceProcess

STAGES = 2
START_S = 60.0
"""Deadline for a pipeline: on a loaded machine a worker imports for 10 s."""
GREEDY = Sampling(max_tokens=20, temperature=0.0)
EMULATED = "stage_worker.testing.emulated"


class WorkerCluster:
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
        """Waits for an active pipeline whose epoch is above the given one. This process then
        has the keys of its node."""
        use(self.node.trust)
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            found = asyncio.run(active_pipeline(self.node.subscribe, "pomona", START_S))
            if found.epoch > above:
                return found
        raise AssertionError(f"no epoch above {above} became active")

    def wait_for_beacons(self, holds: Callable[[dict[str, Beacon]], bool], what: str) -> None:
        """Waits until ``holds`` is true of the newest beacons by name."""

        async def listen() -> None:
            receiver = BeaconReceiver(self.node.subscribe, "pomona")
            beacons: dict[str, Beacon] = {}
            end = time.monotonic() + DEADLINE_S
            try:
                while time.monotonic() < end:
                    beacon = await receiver.receive(0.5)
                    if beacon is not None:
                        beacons[beacon.name] = beacon
                        if holds(beacons):
                            return
            finally:
                await receiver.close()
            raise AssertionError(f"not within {DEADLINE_S:g} s: {what}")

        asyncio.run(listen())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerCluster]:
    with ExitStack() as stack:
        yield WorkerCluster(tmp_path_factory.mktemp("cluster"), stack)


@pytest.fixture
def pipeline(cluster: WorkerCluster) -> Pipeline:
    return cluster.active()


TOKEN = Tensor("int32", (1,))


def worker_facts(beacons: dict[str, Beacon]) -> list[StageWorkerFacts]:
    return [b.facts for b in beacons.values() if isinstance(b.facts, StageWorkerFacts)]


def submit(driver: Driver, length: int = 20, sampling: Sampling = GREEDY) -> Reply:
    return driver.submit(range(1000, 1000 + length), sampling, share=str(time.monotonic_ns()))


def envelope(pipeline: Pipeline, **fields: Any) -> Envelope:
    """Returns the envelope of a step from the head's process, with ``fields`` changed."""
    base = Envelope(
        version=codec.PROTOCOL_VERSION,
        cluster="pomona",
        sender="mac.stage_worker.0",
        boot=pipeline.stages[0].boot,
        link=99,
        seq=0,
        epoch=pipeline.epoch,
        body=Step(1, None, (), False),
    )
    return replace(base, **fields)


def send_raw(endpoint: str, *messages: list[Any]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.setsockopt(zmq.LINGER, 2000)
    trust = installed()
    assert trust is not None
    be_client(socket, trust, trust.keys.public)
    socket.connect(endpoint)
    for frames in messages:
        socket.send_multipart(frames)
    socket.close()
    context.term()


def test_stages_have_equal_cache_tables_after_requests(
    cluster: WorkerCluster, pipeline: Pipeline
) -> None:
    with Driver(pipeline, "pomona") as driver:
        replies = [submit(driver, 10 + 30 * n) for n in range(6)]
        driver.collect(replies, DEADLINE_S)
    assert [len(reply.tokens) for reply in replies] == [20] * 6

    def tables_agree(beacons: dict[str, Beacon]) -> bool:
        facts = worker_facts(beacons)
        tables = {f.table for f in facts}
        return len(facts) == STAGES and len(tables) == 1 and all(f.sequences == 0 for f in facts)

    cluster.wait_for_beacons(tables_agree, "both stages have the same cache table")


def test_cancelled_request_is_freed_in_every_stage_at_once(
    cluster: WorkerCluster, pipeline: Pipeline
) -> None:
    with Driver(pipeline, "pomona") as driver:
        reply = submit(driver, sampling=replace(GREEDY, max_tokens=5000))
        while len(reply.tokens) < 10:
            driver.receive(DEADLINE_S)
        driver.cancel(reply)
        cancelled_at = time.monotonic()

        def is_free(beacons: dict[str, Beacon]) -> bool:
            facts = worker_facts(beacons)
            return len(facts) == STAGES and all(f.sequences == 0 for f in facts)

        cluster.wait_for_beacons(is_free, "no stage has the sequence")
        assert time.monotonic() - cancelled_at < 10


def test_malformed_and_stale_messages_are_dropped(pipeline: Pipeline) -> None:
    good = codec.encode_message(envelope(pipeline))
    for stage in pipeline.stages:
        send_raw(
            stage.endpoint,
            [b"x"],
            [b"{}", b"", b"\xff" * 100],
            [b"\x80\x04K\x01."],
            [b"nobody/1/0", b"of what was never begun"],
            [b"nobody/1/0 5", b"of what was never begun"],
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
        reply = submit(driver)
        driver.collect([reply], DEADLINE_S)
    assert len(reply.tokens) == 20


def test_token_id_out_of_range_is_rejected(pipeline: Pipeline) -> None:
    with Driver(pipeline, "pomona") as driver:
        for wrong in (-1, 10**9, pipeline.vocab_size):
            reply = driver.submit([1, 2, wrong], GREEDY)
            while reply.refusal is None:
                driver.receive(DEADLINE_S)
            assert str(wrong) in reply.refusal
        good = submit(driver)
        driver.collect([good], DEADLINE_S)


def test_a_prompt_over_the_limit_of_the_pipeline_is_rejected_with_the_reason(
    tmp_path: Path,
) -> None:
    (tmp_path / "mac").mkdir()
    (tmp_path / "mac" / "mac.stage_worker.1.prefill.json").write_text(
        f"[[4000, {time.time()}], [4400, {time.time()}]]"
    )
    with ExitStack() as stack:
        own = WorkerCluster(tmp_path, stack)
        pipeline = own.active()
        assert pipeline.prompt_limit == 3000
        with Driver(pipeline, "pomona") as driver:
            long = submit(driver, 3001)
            while long.refusal is None:
                driver.receive(DEADLINE_S)
            assert "mac.stage_worker.1 died of longer ones" in long.refusal
            good = submit(driver, 3000)
            driver.collect([good], DEADLINE_S)


def test_submit_for_another_epoch_is_rejected_at_once(pipeline: Pipeline) -> None:
    with Driver(replace(pipeline, epoch=pipeline.epoch + 100), "pomona") as driver:
        reply = submit(driver)
        driver.receive(DEADLINE_S)
        assert reply.refusal is not None


DONE = {"body": StepDone(1, ()), "tensors": (Tensor("int64", (1, 3)),)}
FROM_TAIL = {"sender": "mac.stage_worker.1"}
FIRST_TOKEN = {"tensors": (TOKEN,)}
WRONG_PARTS: dict[str, tuple[int, dict[str, Any], list[bytes]]] = {
    "too short": (1, FIRST_TOKEN, [b"abc"]),
    "too many": (1, FIRST_TOKEN, [b"abcd", b"abcd"]),
    "no sampled tokens": (0, DONE, [b"\xff" * 24]),
    "for another stage": (1, DONE, [bytes(24)]),
}
"""Stage to send to, fields of the first part, buffers of the second part."""


def test_steps_of_a_process_that_the_plan_does_not_name_are_dropped_and_counted(
    cluster: WorkerCluster, pipeline: Pipeline
) -> None:
    forged = [
        codec.encode_message(envelope(pipeline, **fields))
        for fields in (
            {"boot": "impostor", "seq": 5},
            {"boot": "impostor", "tensors": (TOKEN,), "later": 1},
            {"sender": "mac.stage_worker.7"},
            {"boot": pipeline.stages[1].boot, "body": StepDone(1, ())},
        )
    ]
    for stage in pipeline.stages:
        send_raw(stage.endpoint, *forged)
    with Driver(pipeline, "pomona") as driver:
        reply = submit(driver)
        driver.collect([reply], DEADLINE_S)
    assert len(reply.tokens) == 20
    assert cluster.active().epoch == pipeline.epoch
    pages: list[str] = []

    def are_counted(beacons: dict[str, Beacon]) -> bool:
        pages[:] = [metrics_of(b) for b in beacons.values() if b.facts.service == "stage_worker"]
        counted = [re.search(r'reason="unplanned_sender"} ([0-9.]+)', page) for page in pages]
        return [float(x[1]) >= len(forged) for x in counted if x is not None] == [True] * STAGES

    cluster.wait_for_beacons(are_counted, "every forged step is counted")


@pytest.mark.parametrize("wrong", ["gap", *WRONG_PARTS])
def test_wrong_step_ends_the_epoch_and_the_next_one_serves(
    cluster: WorkerCluster, pipeline: Pipeline, wrong: str
) -> None:
    """A gap in the sequence numbers, or a second part that does not fit the first."""
    stage, messages = 1, [codec.encode_message(envelope(pipeline, seq=5))]
    if wrong in WRONG_PARTS:
        stage, fields, rest = WRONG_PARTS[wrong]
        boot = pipeline.stages[stage - 1].boot
        if stage == 0:
            fields = fields | FROM_TAIL
        first = envelope(pipeline, boot=boot, later=1, **fields)
        messages = [codec.encode_message(first), [codec.message_name(first) + b" 5", *rest]]
    with Driver(pipeline, "pomona") as driver:
        running = submit(driver, sampling=replace(GREEDY, max_tokens=5000))
        while len(running.tokens) < 5:
            driver.receive(DEADLINE_S)
        send_raw(pipeline.stages[stage].endpoint, *messages)
        while running.refusal is None:
            driver.receive(DEADLINE_S)
    following = cluster.active(above=pipeline.epoch)
    with Driver(following, "pomona") as driver:
        reply = submit(driver)
        driver.collect([reply], DEADLINE_S)
    assert len(reply.tokens) == 20


def test_killed_tail_ends_its_requests_and_serves_again_after_its_restart(
    cluster: WorkerCluster,
) -> None:
    before = cluster.active()
    with Driver(before, "pomona") as driver:
        running = submit(driver, sampling=replace(GREEDY, max_tokens=5000))
        while len(running.tokens) < 5:
            driver.receive(DEADLINE_S)
        cluster.workers[-1].kill()
        while running.refusal is None:
            driver.receive(DEADLINE_S)
    cluster.workers[-1].start()
    following = cluster.active(above=before.epoch)
    with Driver(following, "pomona") as driver:
        reply = submit(driver)
        driver.collect([reply], DEADLINE_S)
    assert len(reply.tokens) == 20


def test_serving_goes_on_without_the_planner(tmp_path: Path) -> None:
    with ExitStack() as stack:
        own = WorkerCluster(tmp_path, stack)
        pipeline = own.active()
        own.planner.kill()
        (own.node.folder / "plan.json").unlink()
        (own.node.folder / "models.json").unlink(missing_ok=True)
        with Driver(pipeline, "pomona") as driver:
            reply = submit(driver)
            driver.collect([reply], DEADLINE_S)
        own.planner.start()

        def is_adopted(beacons: dict[str, Beacon]) -> bool:
            planner = beacons.get("mac.planner")
            return (
                planner is not None
                and isinstance(planner.facts, PlannerFacts)
                and planner.facts.pipelines != ()
                and planner.facts.pipelines[0].state == "active"
                and planner.facts.pipelines[0].epoch == pipeline.epoch
            )

        own.wait_for_beacons(is_adopted, "the planner adopts the running epoch")
