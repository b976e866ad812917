"""Four machines in network namespaces: three on one bridge, one behind a router.

They find each other by multicast on the bridge and by static peers across the router, what
they measure is what the links were shaped to, and the plan follows the shaping.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise, permutations
from pathlib import Path

import pytest

from pomona.messages.control import Beacon, DiscoveryFacts
from pomona.models import LayerFacts, ModelFacts
from pomona.transport import BeaconReceiver
from pomona_planner.choosing import Choice, choose
from pomona_planner.predicting import Plan, predict
from pomona_planner.problem import Aim, Demand, Link, Machine, Problem
from processes import wait_until_async

TAG = f"pt{os.getpid() % 10000}"
NODES = {"a": "10.77.0.1", "b": "10.77.0.2", "c": "10.77.0.3", "d": "10.78.0.4"}
RATES = {"a": 400, "b": 100, "c": 200, "d": 150}
PEER_PORT = 52418


def sh(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr.strip()}")


def quiet(command: str) -> None:
    subprocess.run(command.split(), capture_output=True, timeout=20, check=False)


def space(name: str) -> str:
    return f"{TAG}{name}"


def connect(stack: ExitStack, node: str, address: str, switch: str) -> None:
    """A namespace with one interface ``eth0``, whose other end is a port of the switch."""
    sh(f"ip netns add {space(node)}")
    stack.callback(quiet, f"ip netns del {space(node)}")
    port = f"{TAG}{node}p"
    sh(f"ip link add {port} netns {space(switch)} type veth peer name eth0 netns {space(node)}")
    run = f"ip netns exec {space(node)}"
    sh(f"{run} ip address add {address}/24 dev eth0")
    sh(f"{run} ip link set eth0 up")
    sh(f"{run} ip link set lo up")
    sh(f"ip netns exec {space(switch)} ip link set {port} up")


def shape(node: str, mbit: int) -> None:
    """What the node sends goes no faster than this."""
    sh(
        f"ip netns exec {space(node)} tc qdisc replace dev eth0 root tbf "
        f"rate {mbit}mbit burst 64kb latency 200ms"
    )


@pytest.fixture
def network() -> Iterator[None]:
    with ExitStack() as stack:
        try:
            sh(f"ip netns add {space('s')}")
            stack.callback(quiet, f"ip netns del {space('s')}")
            inside = f"ip netns exec {space('s')}"
            sh(f"{inside} ip link add br0 type bridge mcast_snooping 0")
            for node in "abc":
                connect(stack, node, NODES[node], "s")
                sh(f"{inside} ip link set {TAG}{node}p master br0")
            sh(f"{inside} ip address add 10.77.0.254/24 dev br0")
            sh(f"{inside} ip link set br0 up")
            connect(stack, "d", NODES["d"], "s")
            sh(f"{inside} ip address add 10.78.0.254/24 dev {TAG}dp")
            sh(f"{inside} sysctl -qw net.ipv4.ip_forward=1")
            for node, address in NODES.items():
                gateway = address.rsplit(".", 1)[0] + ".254"
                sh(f"ip netns exec {space(node)} ip route add default via {gateway}")
                shape(node, RATES[node])
        except (OSError, FileNotFoundError) as error:
            pytest.skip(f"network namespaces with shaping need root, ip and tc: {error}")
        yield


def start(stack: ExitStack, node: str, folder: Path, peers: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("POMONA_")} | {
        "POMONA_NODE": node,
        "POMONA_CLUSTER": TAG,
        "POMONA_STATE_DIR": str(folder / node),
        "POMONA_CONTROL_PUBLISH": f"ipc://{folder}/{node}.in",
        "POMONA_CONTROL_SUBSCRIBE": f"ipc://{folder}/{node}.out",
        "POMONA_DISCOVERY_PEER_HOST": "0.0.0.0",
        "POMONA_DISCOVERY_PEER_PORT": str(PEER_PORT),
        "POMONA_DISCOVERY_PEERS": peers,
        "POMONA_DISCOVERY_PROBE_INTERVAL_S": "2",
    }
    log = stack.enter_context((folder / f"{node}.log").open("wb"))
    process = subprocess.Popen(
        ["ip", "netns", "exec", space(node), sys.executable, "-m", "pomona_discovery"],
        env=environment,
        stdout=log,
        stderr=log,
    )

    def end() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    stack.callback(end)


async def heard_at(
    folder: Path, node: str, enough: Callable[[dict[str, DiscoveryFacts]], bool], what: str
) -> dict[str, DiscoveryFacts]:
    """What discovery services say, as heard at one node, once it is enough."""
    receiver = BeaconReceiver(f"ipc://{folder}/{node}.out", TAG)
    newest: dict[str, DiscoveryFacts] = {}

    def take(beacon: Beacon) -> None:
        if isinstance(beacon.facts, DiscoveryFacts):
            newest[beacon.node] = beacon.facts

    async def listen() -> None:
        while True:
            beacon = await receiver.receive(0.5)
            if beacon is not None:
                take(beacon)

    task = asyncio.create_task(listen())
    try:
        await wait_until_async(lambda: enough(newest), what, 40)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await receiver.close()
    return dict(newest)


def rates(facts: dict[str, DiscoveryFacts]) -> dict[tuple[str, str], float]:
    return {
        (node, link.node): link.bytes_per_s * 8 / 1e6
        for node, said in facts.items()
        for link in said.links
        if link.bytes_per_s
    }


def shaped(wanted: dict[str, int]) -> Callable[[dict[str, DiscoveryFacts]], bool]:
    """Every pair was measured, within 20% of what its sender was shaped to."""

    def holds(facts: dict[str, DiscoveryFacts]) -> bool:
        found = rates(facts)
        pairs = list(permutations(NODES, 2))
        return all(
            pair in found and abs(found[pair] - wanted[pair[0]]) < 0.2 * wanted[pair[0]]
            for pair in pairs
        )

    return holds


def problem(facts: dict[str, DiscoveryFacts]) -> Problem:
    """A model that needs two of four equal machines, with activations of megabytes."""
    layer = LayerFacts(10**9, 5 * 10**8, 1000)
    end = LayerFacts(10**7, 5 * 10**6, 0)
    model = ModelFacts(
        "m", Path("m"), "folder", "llama", 500_000, 1000, 4096, False, (layer,) * 8, end, end, ()
    )
    machines = tuple(Machine(node, 5 * 10**9, 100e9, 5e12) for node in sorted(NODES))
    links = {
        (node, link.node): Link(link.rtt_us / 2e6, link.bytes_per_s)
        for node, said in facts.items()
        for link in said.links
        if link.bytes_per_s
    }
    return Problem(model, machines, links, Demand())


def best_by_force(asked: Problem) -> float:
    """The best speed of all plans of two to four stages."""
    best = 0.0
    for count in (2, 3):
        for nodes in permutations(range(4), count):
            cuts = [(0, k, 8) for k in range(1, 8)]
            if count == 3:
                cuts = [(0, j, k, 8) for j in range(1, 7) for k in range(j + 1, 8)]
            for bounds in cuts:
                if all(b - a <= 4 for a, b in pairwise(bounds)):
                    found = predict(asked, Plan(nodes, bounds))
                    best = max(best, found.tokens_per_second)
    return best


@pytest.mark.usefixtures("network")
def test_nodes_find_each_other_and_plans_follow_what_the_links_carry(tmp_path: Path) -> None:
    asyncio.run(find_and_plan(tmp_path))


async def find_and_plan(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for node in NODES:
            start(stack, node, tmp_path, f"{NODES['a']}:{PEER_PORT}" if node == "d" else "")
        facts = await heard_at(tmp_path, "c", shaped(RATES), "measured as shaped")
        first = choose(problem(facts), Aim(floor=0))
        assert isinstance(first, Choice)
        best = best_by_force(problem(facts))
        assert first.prediction.tokens_per_second == pytest.approx(best, rel=1e-6)
        assert first.plan.nodes[0] == 0, "a has the fastest way out"

        swapped = {**RATES, "a": 100, "b": 400}
        for node in "ab":
            shape(node, swapped[node])
        facts = await heard_at(tmp_path, "d", shaped(swapped), "measured as shaped anew")
        second = choose(problem(facts), Aim(floor=0))
        assert isinstance(second, Choice)
        best = best_by_force(problem(facts))
        assert second.prediction.tokens_per_second == pytest.approx(best, rel=1e-6)
        assert second.plan.nodes[0] == 1, "now b has"
