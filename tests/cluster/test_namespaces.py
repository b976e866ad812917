"""Discovery and planning between network namespaces with bridges, a router and shaped links.

Nodes find each other by multicast on a bridge and by static peers across a router. Measured
links have their shaped rates, plans follow them, and network faults are reported.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from itertools import pairwise, permutations
from pathlib import Path

import pytest

from pomona.messages.discovery import DiscoveryFacts
from pomona.models import LayerFacts, ModelFacts
from pomona_planner.cost_model.prediction import Plan, predict
from pomona_planner.cost_model.problem import Aim, Demand, Link, Machine, Problem
from pomona_planner.solver.optimizer import OptimizedPlan, choose
from support.namespaces import LINK_DEADLINE_S, PEER_PORT, NamespaceListener, Network, network
from support.waiting import wait_until_async

NODES = {"a": "10.77.0.1", "b": "10.77.0.2", "c": "10.77.0.3", "d": "10.78.0.4"}
RATES = {"a": 400, "b": 100, "c": 200, "d": 150}
DISCOVERY = "pomona_discovery"

ASK = """
import asyncio, sys
from pathlib import Path
from pomona.messages.pipeline import Sampling
from pomona_ops.bench.clusters import BenchError
from pomona.transport import use
from pomona.trust import Trust
from pomona_ops.bench.driver import Driver, active_pipeline

use(Trust.load(Path(sys.argv[3])))
for attempt in range(5):
    pipeline = asyncio.run(active_pipeline(sys.argv[1], sys.argv[2], 20))
    with Driver(pipeline, sys.argv[2], "10.71.0.1") as driver:
        reply = driver.submit([1, 2, 3], Sampling(max_tokens=6))
        try:
            driver.collect([reply], 20)
            break
        except BenchError as error:
            if attempt == 4 or "formed anew" not in str(error):
                raise
print(len(reply.tokens))
"""
"""Submits a request, and again if its pipeline is replaced, as a gateway does."""


class Links:
    """Collects a measurement of each pair of nodes that is within 20% of the shaped rate.

    Other work on this machine can make a measurement too low; it is repeated.
    """

    def __init__(self, rates: dict[str, int]) -> None:
        self._rates = rates
        self.found: dict[tuple[str, str], Link] = {}

    def complete(self, facts: dict[str, DiscoveryFacts]) -> bool:
        for node, discovery in facts.items():
            for link in discovery.links:
                rate = self._rates[node] * 1e6 / 8
                if abs(link.bytes_per_s - rate) < 0.2 * rate:
                    self.found[node, link.node] = Link(link.rtt_us / 2e6, link.bytes_per_s)
        return self.found.keys() == set(permutations(NODES, 2))


def problem(links: dict[tuple[str, str], Link]) -> Problem:
    """Returns a problem: a model for two of four equal machines, with activations of megabytes."""
    layer = LayerFacts(10**9, 5 * 10**8, 1000)
    end = LayerFacts(10**7, 5 * 10**6, 0)
    model = ModelFacts(
        "m", Path("m"), "folder", "llama", 500_000, 1000, 4096, False, (layer,) * 8, end, end, ()
    )
    machines = tuple(Machine(node, 5 * 10**9, 100e9, 5e12) for node in sorted(NODES))
    return Problem(model, machines, links, Demand())


def best_of_all_plans(problem_: Problem) -> float:
    """Returns the highest tokens per second of all plans of two or three stages."""
    best = 0.0
    for count in (2, 3):
        for nodes in permutations(range(4), count):
            cuts = [(0, k, 8) for k in range(1, 8)]
            if count == 3:
                cuts = [(0, j, k, 8) for j in range(1, 7) for k in range(j + 1, 8)]
            for bounds in cuts:
                if all(b - a <= 4 for a, b in pairwise(bounds)):
                    found = predict(problem_, Plan(nodes, bounds))
                    best = max(best, found.tokens_per_second)
    return best


def test_nodes_find_each_other_and_plans_follow_the_measured_links(tmp_path: Path) -> None:
    """Three nodes are on a bridge, one is behind a router."""
    with network("n") as net:
        net.bridge("s", "br0", "10.77.0.254")
        for node in "abc":
            net.plug(node, "eth0", NODES[node], "s", "br0")
        net.plug("d", "eth0", NODES["d"], "s")
        net.run("s", "sysctl -qw net.ipv4.ip_forward=1")
        for node, address in NODES.items():
            net.route_through(node, address.rpartition(".")[0] + ".254")
            net.shape(node, "eth0", RATES[node])
        asyncio.run(find_and_plan(net, tmp_path))


async def find_and_plan(net: Network, folder: Path) -> None:
    for node in NODES:
        peers = f"{NODES['a']}:{PEER_PORT}" if node == "d" else ""
        net.start(node, folder, DISCOVERY, DISCOVERY_PEERS=peers)
    async with NamespaceListener(folder, "c", net.tag) as listener:
        links = Links(RATES)
        await wait_until_async(
            lambda: links.complete(listener.discoveries), "measured as shaped", LINK_DEADLINE_S
        )
    first = best_plan(links)
    assert first.plan.nodes[0] == 0, "a has the fastest uplink"

    swapped = {**RATES, "a": 100, "b": 400}
    for node in "ab":
        net.shape(node, "eth0", swapped[node])
    async with NamespaceListener(folder, "d", net.tag) as listener:
        links = Links(swapped)
        await wait_until_async(
            lambda: links.complete(listener.discoveries),
            "measured as shaped again",
            LINK_DEADLINE_S,
        )
    second = best_plan(links)
    assert second.plan.nodes[0] == 1, "now b has the fastest uplink"


def best_plan(links: Links) -> OptimizedPlan:
    stated = problem(links.found)
    found = choose(stated, Aim(floor=0))
    assert isinstance(found, OptimizedPlan)
    assert found.prediction.tokens_per_second == pytest.approx(best_of_all_plans(stated), rel=1e-6)
    return found


def test_the_faster_of_two_addresses_is_used_until_it_fails(tmp_path: Path) -> None:
    """Two nodes have two cables; tokens use the fast one until it is unplugged."""
    with network("c") as net:
        for number, mbit in ((1, 100), (2, 800)):
            net.bridge("s", f"br{number}")
            for node, last in (("a", 1), ("b", 2)):
                net.plug(node, f"eth{number}", f"10.7{number}.0.{last}", "s", f"br{number}")
                net.shape(node, f"eth{number}", mbit)
        asyncio.run(unplug_the_fast_cable(net, tmp_path))


async def unplug_the_fast_cable(net: Network, folder: Path) -> None:
    data = {"DATA_HOST": "0.0.0.0", "STAGE_WORKER_HOLD_MS": "1"}
    for node in "ab":
        net.start(node, folder, DISCOVERY)
        net.start(node, folder, "pomona_stage_worker.testing.emulated", **data)
    async with NamespaceListener(folder, "a", net.tag) as listener:
        await wait_until_async(
            lambda: (
                {x.address for facts in listener.discoveries.values() for x in facts.links}
                == {"10.72.0.1", "10.72.0.2"}
            ),
            "both nodes found the fast address",
            LINK_DEADLINE_S,
        )
        net.start("a", folder, "pomona_planner", PLANNER_STAGES="2", PLANNER_PINS='["a=0..15"]')
        assert await serving_over(listener, "tcp://10.72.0.") == 1
        assert tokens_received(net, folder) == "6"

        net.run("s", "ip link set aeth2 down")
        assert await serving_over(listener, "tcp://10.71.0.") > 1
        assert tokens_received(net, folder) == "6"
        # Node a withdraws the address whose cable is unplugged; that of b does not answer.
        await wait_until_async(
            lambda: (
                {
                    (x.address, x.dead)
                    for facts in listener.discoveries.values()
                    for x in facts.links
                }
                == {("10.71.0.1", ()), ("10.71.0.2", ("10.72.0.2",))}
            ),
            "both nodes left the dead address",
            LINK_DEADLINE_S,
        )


async def serving_over(listener: NamespaceListener, network: str) -> int:
    """Waits until the pipeline is active on addresses of this network. Returns its epoch."""

    def holds() -> bool:
        found = listener.pipeline
        return (
            found is not None
            and found.state == "active"
            and all(stage.address.startswith(network) for stage in found.stages)
        )

    await wait_until_async(holds, f"an active pipeline over {network}", LINK_DEADLINE_S)
    assert listener.pipeline is not None
    return listener.pipeline.epoch


def tokens_received(net: Network, folder: Path) -> str:
    """Returns the number of tokens of a request from node a, or the error. The tail is on b."""
    done = subprocess.run(
        ["ip", "netns", "exec", f"{net.tag}a", sys.executable, "-c", ASK,
         f"ipc://{folder}/a.out", net.tag, str(folder / "a")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.strip() or done.stderr


def test_causes_of_missing_nodes_are_reported(tmp_path: Path) -> None:
    """Reports blocked multicast and a second planner; a stranger does not get in by a peer's
    address."""
    with network("t") as net:
        net.bridge("s", "br0")
        for number, node in enumerate("abd", 1):
            net.plug(node, "eth0", f"10.77.0.{number}", "s", "br0")
            net.run("s", f"ip link set {node}eth0 type bridge_slave mcast_flood off")
        asyncio.run(await_the_reports(net, tmp_path))


async def await_the_reports(net: Network, folder: Path) -> None:
    first = f"10.77.0.1:{PEER_PORT}"
    net.start("a", folder, DISCOVERY)
    net.start("b", folder, DISCOVERY, DISCOVERY_PEERS=first)
    net.start("d", folder, DISCOVERY, DISCOVERY_PEERS=first, CLUSTER="neighbours")
    for node in "ab":
        net.start(node, folder, "pomona_planner")
    async with (
        NamespaceListener(folder, "a", net.tag) as listener,
        NamespaceListener(folder, "d", "neighbours") as neighbour,
    ):
        for words in (
            "no multicast comes from",
            f"another cluster is called {net.tag} too",
        ):
            await wait_until_async(
                lambda words=words: words in listener.troubles, words, LINK_DEADLINE_S
            )
        assert set(listener.discoveries) == {"a", "b"}, (
            "b is found by its static peer; d is in another cluster"
        )
        await wait_until_async(
            lambda: neighbour.discoveries, "the neighbours' own discovery", LINK_DEADLINE_S
        )
        assert set(neighbour.discoveries) == {"d"}
