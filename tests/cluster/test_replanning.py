"""The planner proposes a better plan after measuring, and applies it if its settings permit.

The planner knows the speed of neither node. A step of the first node takes much longer than
predicted, so the planner expects the second one to be several times faster.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from pomona.messages.control import Beacon, Pipeline, PlannerFacts, StageWorkerFacts
from pomona.messages.sampling import Sampling
from pomona.transport import use
from pomona_ops.bench.driver import Driver
from support.beacon_listener import BeaconListener
from support.clusters import MODEL, run_pomona
from support.ports import free_ports
from support.processes import LOOPBACK, Node, ServiceProcess
from support.waiting import wait_until_async

HOLD_MS = {"a": 400.0, "b": 10.0}
EMULATED = "stage_worker.testing.emulated"


@pytest.mark.parametrize("replan", ["propose", "idle"])
def test_a_better_plan_is_proposed_and_applied_only_if_replan_is_idle(
    replan: str, tmp_path: Path
) -> None:
    is_applied = replan == "idle"
    with ExitStack() as stack:
        ports = free_ports()
        node = Node("a", tmp_path)
        node.publish = f"tcp://{LOOPBACK}:{ports.control_publish}"
        node.subscribe = f"tcp://{LOOPBACK}:{ports.control_subscribe}"
        stack.enter_context(node.discovery())
        other = Node("b", tmp_path)
        use(node.trust, node.publish, node.subscribe)
        stack.enter_context(other.discovery(node.peer))
        slow, quick = (
            ServiceProcess(
                EMULATED,
                tmp_path / f"{each.name}.log",
                each.environment | {"POMONA_STAGE_WORKER_HOLD_MS": str(HOLD_MS[each.name])},
            )
            for each in (node, other)
        )
        stack.enter_context(slow)
        planner = {
            "POMONA_PLANNER_STAGES": "1",
            "POMONA_PLANNER_MODELS": json.dumps([MODEL]),
            "POMONA_PLANNER_REPLAN": replan,
            "POMONA_PLANNER_LOOK_INTERVAL_S": "0.5",
        }
        stack.enter_context(
            ServiceProcess("planner", tmp_path / "planner.log", node.environment | planner)
        )
        asyncio.run(measure_and_propose(node, stack, quick, is_applied))
        if not is_applied:
            check_status(ports.first, node.folder)


async def measure_and_propose(
    node: Node, stack: ExitStack, quick: ServiceProcess, is_applied: bool
) -> None:
    listener = BeaconListener(node.subscribe, node.cluster)

    def pipeline() -> Pipeline | None:
        beacon = listener.newest.get("a.planner")
        if beacon is None or not isinstance(beacon.facts, PlannerFacts):
            return None
        return next(iter(beacon.facts.pipelines), None)

    def is_active() -> bool:
        found = pipeline()
        return found is not None and found.state == "active"

    def current() -> Pipeline:
        found = pipeline()
        assert found is not None
        return found

    try:
        await wait_until_async(is_active, "the first plan")
        before = current()
        assert [stage.worker for stage in before.stages] == ["a.stage_worker"]
        with Driver(before, node.cluster) as driver:
            # A worker that runs without pause reports its measurements only now and then.
            short = driver.submit([1, 2], Sampling(max_tokens=3))
            await asyncio.to_thread(driver.collect, [short])
            await listener.wait_until(
                lambda newest: measured(newest["a.stage_worker"]), "a measured step"
            )
            reply = driver.submit([1, 2, 3], Sampling(max_tokens=4000))
            await asyncio.to_thread(lambda: [driver.receive(2.0) for _ in range(4)])
            assert reply.tokens
            stack.enter_context(quick)
            await wait_until_async(lambda: current().proposal, "a proposal")
            assert "with b.stage_worker to layer 30" in current().proposal
            assert current().epoch == before.epoch, "the plan is kept while a request runs"
            driver.cancel(reply)
            if is_applied:
                await wait_until_async(
                    lambda: is_active() and current().stages[0].worker == "b.stage_worker",
                    "the better plan",
                )
                assert current().epoch > before.epoch
            else:
                seq = listener.newest["a.planner"].seq
                await listener.wait_until(
                    lambda newest: newest["a.planner"].seq >= seq + 3,
                    "beacons of a planner that has looked for a better plan",
                )
                assert current().epoch == before.epoch
    finally:
        await listener.close()


def measured(worker: Beacon) -> bool:
    facts = worker.facts
    return isinstance(facts, StageWorkerFacts) and any(x.decode_us > 0 for x in facts.stages)


def check_status(port: int, state_dir: Path) -> None:
    """Checks that ``pomona status`` has the measurements beside the predictions."""
    done = run_pomona("status", "--json", "--port", str(port), POMONA_STATE_DIR=str(state_dir))
    (pipeline,) = json.loads(done.stdout)["pipelines"]
    (stage,) = pipeline["stages"]
    assert stage["decode_us"] >= 0.95 * HOLD_MS["a"] * 1000
    assert stage["predicted_us"] < stage["decode_us"] / 2, (
        "the prediction was made before measuring"
    )
    assert (
        0 < pipeline["measured_tokens_per_second"] < pipeline["prediction"]["tokens_per_second"] / 2
    )
