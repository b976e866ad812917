"""A stage worker that is given another range of layers holds one share of the model, not two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import orjson
import pytest
from mlx_lm.models import llama

from pomona.messages.control import Pipeline, Stage, StageWorkerFacts
from pomona.transport import BeaconSender
from support.beacon_thread import BeaconThread
from support.beacons import beacon_of
from support.models.folders import CONFIG, tensors_of, write_folder
from support.processes import Node, ServiceProcess
from support.waiting import DEADLINE_S, wait_until

TESTS = Path(__file__).parents[1]
LAYERS = CONFIG["num_hidden_layers"]
WIDE: dict[str, Any] = {
    **CONFIG, "hidden_size": 512, "intermediate_size": 1536, "head_dim": 128,
}  # fmt: skip
"""A model of 100 MB: two shares differ plainly from what a computation needs."""


def zero_tensors() -> dict[str, mx.array]:
    names = tensors_of(llama.Model(llama.ModelArgs.from_dict(WIDE)))
    return {name: mx.zeros(array.shape) for name, array in names.items()}


class ReplannedWorker:
    """A stage worker that follows a plan of the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.model = write_folder(folder / "model", zero_tensors(), WIDE, 4)
        self.node = Node("mac", folder)
        self.folder = self.node.folder
        stack.enter_context(self.node.discovery())
        self.worker = ServiceProcess(
            "stage_worker",
            folder / "worker.log",
            self.node.environment | {"POMONA_MODELS_DIR": str(folder), "PYTHONPATH": str(TESTS)},
            "support.doubles.measured_worker",
        )
        stack.enter_context(self.worker)
        self._beacons = stack.enter_context(BeaconThread(self.node))
        self._sender = BeaconSender(self.node.publish)
        stack.callback(self._sender.close)
        self._seq = 0

    def _facts(self) -> StageWorkerFacts | None:
        beacon = self._beacons.newest.get("mac.stage_worker")
        if beacon is None or beacon.state != "ready":
            return None
        return beacon.facts if isinstance(beacon.facts, StageWorkerFacts) else None

    def publish(self, epoch: int, start: int, stop: int) -> None:
        """Publishes a plan in which this worker has layers ``[start, stop)`` of the model."""
        endpoint = self._beacons.newest["mac.stage_worker"].endpoints["data"]
        others = "tcp://127.0.0.1:9"
        stages = (
            *((Stage("other.0", 0, start, others),) if start else ()),
            Stage("mac.stage_worker", start, stop, endpoint),
            *((Stage("other.1", stop, LAYERS, others),) if stop < LAYERS else ()),
        )
        plan = Pipeline(
            "m", str(self.model), epoch, LAYERS, "forming", stages, 256, 512, vocab_size=256
        )
        self._send(plan)

    def _send(self, *pipelines: Pipeline) -> None:
        self._seq += 1
        beacon = beacon_of("planner", seq=self._seq, facts={"pipelines": pipelines})
        self._sender.send(replace(beacon, boot="planner"))

    def until(self, holds: Callable[[StageWorkerFacts], object], what: str, *plan: int) -> None:
        """Waits for a state of the worker, publishing the plan (epoch, start, stop) meanwhile."""
        published = 0.0

        def check() -> bool:
            nonlocal published
            facts = self._facts()
            if facts is not None and plan and time.monotonic() > published + 0.5:
                published = time.monotonic()
                self.publish(*plan)
            return facts is not None and bool(holds(facts))

        wait_until(check, what, 3 * DEADLINE_S)

    def install(self, epoch: int, start: int, stop: int) -> None:
        """Publishes a plan until the worker's only stage is that of the plan, and ready."""

        def is_ready(facts: StageWorkerFacts) -> bool:
            return [(s.epoch, s.state) for s in facts.stages] == [(epoch, "ready")]

        self.until(is_ready, f"epoch {epoch} is ready", epoch, start, stop)

    def remove(self) -> None:
        """Publishes a plan without pipelines until the worker has no stage."""

        def is_empty(facts: StageWorkerFacts) -> bool:
            self._send()
            return not facts.stages

        self.until(is_empty, "the stage is removed")

    def memory_calls(self) -> list[list[Any]]:
        """Returns MLX's functions for memory that were called, in order, with their arguments."""
        lines = (self.folder / "memory_calls.jsonl").read_bytes().splitlines()
        return [orjson.loads(line) for line in lines]

    def loads(self) -> list[dict[str, Any]]:
        lines = (self.folder / "loads.jsonl").read_bytes().splitlines()
        return [orjson.loads(line) for line in lines]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[ReplannedWorker]:
    with ExitStack() as stack:
        yield ReplannedWorker(tmp_path, stack)


def test_the_peak_of_a_new_range_is_at_most_a_tenth_above_the_larger_share(
    worker: ReplannedWorker,
) -> None:
    for epoch, (start, stop) in enumerate([(0, 4), (4, 8), (2, 7), (0, 4)], 1):
        worker.install(epoch, start, stop)
    worker.until(lambda facts: facts.stages[-1:], "the next range loads", 5, 4, 8)
    worker.install(6, 2, 6)
    loads = worker.loads()
    assert [load["range"] for load in loads][:4] == [[0, 4], [4, 8], [2, 7], [0, 4]]
    for before, load in pairwise(loads):
        larger = max(before["held"], load["held"])
        assert load["peak"] <= 1.1 * larger, f"{load['range']} after {before['range']}"


def test_a_removed_stage_unwires_its_weights_then_synchronizes_then_gives_memory_back(
    worker: ReplannedWorker,
) -> None:
    worker.install(1, 0, 4)
    [load] = worker.loads()
    wait_until(lambda: ["set_wired_limit", load["held"]] in worker.memory_calls(), "wired weights")
    worker.remove()

    def after_removal() -> list[list[Any]]:
        calls = worker.memory_calls()
        ends = [n for n, call in enumerate(calls) if call == ["set_wired_limit", 0]]
        return calls[ends[-1] :] if ends else []

    expected = [["set_wired_limit", 0], ["synchronize"], ["clear_cache"]]
    wait_until(lambda: after_removal()[:3] == expected, "memory is given back", DEADLINE_S)
