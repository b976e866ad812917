"""A worker that survives many epochs holds no more memory than after a few."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from pomona.messages.control import Pipeline
from pomona.messages.sampling import Sampling
from pomona_ops.bench.driver import Driver, active_pipeline
from pomona_ops.cluster.blas import stage_worker_environment
from support.clusters import MODEL
from support.processes import Node, ServiceProcess
from support.waiting import wait_until

EPOCHS = 30
FIRST = 3
"""Epochs after which the survivor's memory is taken as the measure of all later ones."""
GROWTH = 1.05
EPOCH_S = 60.0
SETTLE_S = 5.0
PROMPTS = 2
PROMPT_TOKENS = 300
SAMPLING = Sampling(max_tokens=8, temperature=0.0)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_survivor_of_thirty_epochs_has_the_memory_of_three(tmp_path: Path) -> None:
    node = Node("mac", tmp_path)
    with ExitStack() as stack:
        stack.enter_context(node.discovery())
        workers = [
            stack.enter_context(
                ServiceProcess(
                    "stage_worker",
                    tmp_path / f"worker{index}.log",
                    node.environment
                    | stage_worker_environment(2)
                    | {"POMONA_STAGE_WORKER_NAME": f"mac.stage_worker.{index}"},
                )
            )
            for index in range(2)
        ]
        variables = {"POMONA_PLANNER_STAGES": "2", "POMONA_PLANNER_MODELS": json.dumps([MODEL])}
        stack.enter_context(
            ServiceProcess("planner", tmp_path / "planner.log", node.environment | variables)
        )
        survivor = psutil.Process(workers[0].pid)
        pipeline = _active(node, above=0)
        resident: list[int] = []
        for number in range(EPOCHS):
            _ask(pipeline, number)
            resident.append(_settled_rss(survivor))
            workers[1].kill()
            workers[1].start()
            pipeline = _active(node, above=pipeline.epoch)
        megabytes = [size >> 20 for size in resident]
        print(f"resident MB after each epoch: {megabytes}")
        assert resident[-1] <= resident[FIRST - 1] * GROWTH, megabytes


def _active(node: Node, above: int) -> Pipeline:
    """Waits for an active pipeline of a later epoch."""
    ends_at = time.monotonic() + EPOCH_S
    while time.monotonic() < ends_at:
        found = asyncio.run(active_pipeline(node.subscribe, node.cluster, EPOCH_S))
        if found.epoch > above:
            return found
    raise TimeoutError(f"no epoch above {above} became active within {EPOCH_S:g} s")


def _ask(pipeline: Pipeline, number: int) -> None:
    """Runs prompts that no earlier epoch has seen, and that no prefix shortens."""
    with Driver(pipeline, "pomona") as driver:
        driver.collect(
            driver.submit(
                [
                    (number * PROMPTS + prompt + 7 * token) % 4000 + 100
                    for token in range(PROMPT_TOKENS)
                ],
                SAMPLING,
            )
            for prompt in range(PROMPTS)
        )


def _settled_rss(process: psutil.Process) -> int:
    """Returns the resident bytes once they have not changed for a moment."""
    seen = [0]

    def is_still() -> bool:
        seen.append(process.memory_info().rss)
        return len(seen) > 50 and seen[-1] == seen[-50]

    wait_until(is_still, "resident memory is still", SETTLE_S)
    return seen[-1]
