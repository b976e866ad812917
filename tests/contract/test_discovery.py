"""Discovery as other services see it: real processes and sockets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import zmq

from pomona.messages.codec import encode_beacon
from pomona.messages.control import Beacon
from pomona.messages.discovery import DiscoveryFacts
from pomona.messages.limits import MAX_BEACON_BYTES
from pomona.transport import BeaconSender
from pomona.transport.curve import be_client
from pomona.trust import Trust
from pomona.trust import roster as rosters
from support.beacon_listener import BeaconListener, metrics_of
from support.beacons import beacon_of
from support.processes import Node, ServiceProcess
from support.waiting import wait_until, wait_until_async

Newest = dict[str, Beacon]


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(within())


def peers_of(newest: Newest, node: str) -> set[str]:
    beacon = newest.get(f"{node}.discovery")
    if beacon is None:
        return set()
    assert isinstance(beacon.facts, DiscoveryFacts)
    return set(beacon.facts.peers)


async def publish(sender: BeaconSender, beacon: Beacon, until: Callable[[], object]) -> None:
    """Publishes beacons of a service with rising sequence numbers until ``until`` holds."""
    seq = beacon.seq
    async with asyncio.timeout(20):
        while not until():
            sender.send(beacon_of(
                beacon.facts.service, beacon.node, boot=beacon.boot, seq=seq,
                cluster=beacon.cluster,
            ))  # fmt: skip
            seq += 1
            await asyncio.sleep(0.1)


class RawPublisher:
    """Sends arbitrary frames to a socket of discovery."""

    def __init__(self, endpoint: str, trust: Trust) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        be_client(self._socket, trust, trust.keys.public)
        self._socket.connect(endpoint)

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart(list(frames))

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def test_a_service_receives_its_own_beacon_and_the_hardware_of_its_node(tmp_path: Path) -> None:
    node = Node("a", tmp_path)

    async def body() -> None:
        listener, sender = BeaconListener(node.subscribe, node.cluster), BeaconSender(node.publish)
        await publish(sender, beacon_of("gateway", "a"), lambda: "a.gateway" in listener.newest)
        await listener.wait_until(lambda newest: "a.discovery" in newest, "its own beacon")
        beacon = listener.newest["a.discovery"]
        assert isinstance(beacon.facts, DiscoveryFacts)
        assert beacon.facts.hardware.cores > 0
        assert beacon.endpoints["peer"] == node.peer
        page = metrics_of(beacon)
        assert re.search(
            r'pomona_discovery_beacons_total\{origin="local",service="gateway"\} \d', page
        )
        sender.close()
        await listener.close()

    with node.discovery() as discovery:
        run(body)
        assert discovery.stop() == 0


def test_two_nodes_connect_when_one_of_them_knows_the_other(tmp_path: Path) -> None:
    a, b = Node("a", tmp_path), Node("b", tmp_path)

    async def body() -> None:
        at_a, at_b = BeaconListener(a.subscribe, a.cluster), BeaconListener(b.subscribe, b.cluster)
        await at_a.wait_until(lambda newest: peers_of(newest, "a") == {b.peer}, "a has added b")
        await at_b.wait_until(
            lambda newest: peers_of(newest, "b") == {a.peer}, "b receives beacons of a"
        )
        sender = BeaconSender(a.publish)
        await publish(sender, beacon_of("planner", "a"), lambda: "a.planner" in at_b.newest)
        sender.close()
        await at_a.close()
        await at_b.close()

    # Only b has a peer in its settings.
    with a.discovery() as first, b.discovery(a.peer) as second:
        run(body)
        assert (first.stop(), second.stop()) == (0, 0)


def test_three_nodes_connect_fully_through_one_and_forward_each_beacon_once(tmp_path: Path) -> None:
    a, b, c = (Node(name, tmp_path) for name in "abc")
    expected = {"a": {b.peer, c.peer}, "b": {a.peer, c.peer}, "c": {a.peer, b.peer}}

    async def body() -> None:
        listeners = [BeaconListener(node.subscribe, node.cluster) for node in (a, b, c)]
        for listener in listeners:
            await listener.wait_until(
                lambda newest: all(peers_of(newest, name) == expected[name] for name in expected),
                f"all connected, not {[peers_of(listener.newest, name) for name in expected]}",
            )
        for listener in listeners:
            seen = [(beacon.boot, beacon.seq) for beacon in listener.received]
            assert len(seen) == len(set(seen)), "a beacon came twice"
            await listener.close()

    with ExitStack() as stack:
        for process in (a.discovery(b.peer), c.discovery(b.peer), b.discovery()):
            stack.enter_context(process)
        run(body)


def test_the_final_beacon_reaches_this_node_and_the_others(tmp_path: Path) -> None:
    a, b = Node("a", tmp_path), Node("b", tmp_path)

    def left(newest: Newest) -> bool:
        return "a.discovery" in newest and newest["a.discovery"].state == "draining"

    async def body(stopped: ServiceProcess) -> None:
        at_a, at_b = BeaconListener(a.subscribe, a.cluster), BeaconListener(b.subscribe, b.cluster)
        await at_b.wait_until(lambda newest: "a.discovery" in newest, "b receives a")
        await at_a.wait_until(lambda newest: "a.discovery" in newest, "a receives its own beacons")
        assert await asyncio.to_thread(stopped.stop) == 0
        await at_a.wait_until(left, "the final beacon at a")
        await at_b.wait_until(left, "the final beacon at b")
        await at_a.close()
        await at_b.close()

    with a.discovery() as first, b.discovery(a.peer):
        run(lambda: body(first))


def test_invalid_and_foreign_frames_are_counted_and_do_no_harm(tmp_path: Path) -> None:
    node = Node("a", tmp_path)
    foreign = encode_beacon(beacon_of("gateway", "x", cluster="foreign"))
    invalid = [
        (b"",),
        (b"beacon/gateway/a", b"not json"),
        (b"beacon/gateway/a", b"[" * 100_000),
        (b"one", b"two", b"three"),
        tuple(foreign),
        (b"beacon/", b" " * (MAX_BEACON_BYTES + 1)),
    ]

    def dropped(page: str, origin: str, reason: str) -> bool:
        pattern = rf'dropped_total\{{origin="{origin}",reason="{reason}"\}} [1-9]'
        return re.search(pattern, page) is not None

    async def body() -> None:
        listener = BeaconListener(node.subscribe, node.cluster)
        await listener.wait_until(lambda newest: "a.discovery" in newest, "discovery is running")
        for origin, endpoint in (("local", node.publish), ("peer", node.peer)):
            publisher = RawPublisher(endpoint, node.trust)

            def both_counted(origin: str = origin, publisher: RawPublisher = publisher) -> bool:
                for frames in invalid:
                    publisher.send(*frames)
                page = metrics_of(listener.newest["a.discovery"])
                return dropped(page, origin, "invalid") and dropped(page, origin, "foreign_cluster")

            await wait_until_async(both_counted, f"drops of {origin} are counted")
            publisher.close()
        sender = BeaconSender(node.publish)
        await publish(sender, beacon_of("gateway", "a"), lambda: "a.gateway" in listener.newest)
        assert "x.gateway" not in {beacon.name for beacon in listener.received}
        sender.close()
        await listener.close()

    with node.discovery() as discovery:
        run(body)
        assert discovery.stop() == 0


def test_a_name_conflict_is_logged_and_counted(tmp_path: Path) -> None:
    node = Node("twin", tmp_path)

    async def body(discovery: ServiceProcess) -> None:
        listener = BeaconListener(node.subscribe, node.cluster)
        await wait_until_async(
            lambda: "two processes are called twin.health_watcher" in discovery.logged(),
            "the conflict is reported",
        )
        page = metrics_of(listener.newest["twin.discovery"])
        assert "pomona_discovery_name_conflicts 1.0" in page
        await listener.close()

    with node.discovery() as discovery, node.health_watcher(), node.health_watcher():
        run(lambda: body(discovery))


def test_a_node_that_is_its_own_peer_counts_echoes_and_reports_no_conflict(tmp_path: Path) -> None:
    node = Node("a", tmp_path)

    async def body() -> None:
        listener = BeaconListener(node.subscribe, node.cluster)
        await listener.wait_until(lambda newest: "a.discovery" in newest, "discovery is running")
        await wait_until_async(
            lambda: re.search(
                r'origin="peer",reason="echo"\} [1-9]', metrics_of(listener.newest["a.discovery"])
            ),
            "the echo is counted",
        )
        assert "name_conflicts 0.0" in metrics_of(listener.newest["a.discovery"])
        await listener.close()

    # With a host name that the settings cannot recognize as this node's.
    with node.discovery(f"localhost:{node.peer_port}"):
        run(body)


def test_services_and_peers_connect_to_a_killed_and_restarted_discovery(tmp_path: Path) -> None:
    a, b = Node("a", tmp_path), Node("b", tmp_path)

    async def body(killed: ServiceProcess) -> None:
        at_a, at_b = BeaconListener(a.subscribe, a.cluster), BeaconListener(b.subscribe, b.cluster)
        await at_a.wait_until(lambda newest: peers_of(newest, "a") == {b.peer}, "a has added b")
        await at_b.wait_until(lambda newest: "a.discovery" in newest, "b receives a")
        boots = {at_a.newest["a.discovery"].boot}
        killed.kill()
        killed.start()
        for listener in (at_a, at_b):
            await listener.wait_until(
                lambda newest: newest["a.discovery"].boot not in boots, "new boot"
            )
        await at_a.wait_until(
            lambda newest: peers_of(newest, "a") == {b.peer}, "a has added b again"
        )
        sender = BeaconSender(b.publish)
        await publish(sender, beacon_of("gateway", "b"), lambda: "b.gateway" in at_a.newest)
        sender.close()
        await at_a.close()
        await at_b.close()

    with a.discovery() as first, b.discovery(a.peer):
        run(lambda: body(first))


def test_a_port_in_use_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    a = Node("a", tmp_path)
    with a.discovery() as first:
        wait_until(lambda: "discovery is ready" in first.logged(), "the first one is ready")
        b = Node("b", tmp_path)
        with b.discovery(POMONA_DISCOVERY_PEER_PORT=str(a.peer_port)) as second:
            assert second.wait() == 78
            assert "POMONA_DISCOVERY_PEER_PORT" in second.logged()


def test_a_revoked_node_is_out_and_the_others_go_on(tmp_path: Path) -> None:
    a, b, c = (Node(name, tmp_path) for name in "abc")

    async def body() -> None:
        sender = BeaconSender(c.publish, c.trust)
        async with BeaconListener(a.subscribe, a.cluster) as at_a:
            never = asyncio.create_task(publish(sender, beacon_of("gateway", "c"), lambda: False))
            names = {"a.discovery", "b.discovery", "c.discovery", "c.gateway"}
            await at_a.wait_until(lambda newest: names <= set(newest), "all are heard")
            a.trust.change(lambda x: rosters.without_member(x, c.trust.keys.id))

            def is_known(newest: Newest) -> bool:
                rosters_heard = [
                    beacon.facts.roster
                    for beacon in (newest["a.discovery"], newest["b.discovery"])
                    if isinstance(beacon.facts, DiscoveryFacts)
                ]
                return rosters_heard == [a.trust.encoded()] * 2

            await at_a.wait_until(is_known, "a and b know the new roster", 30.0)
            at_a.received.clear()
            seen = at_a.newest["b.discovery"].seq
            await at_a.wait_until(lambda newest: newest["b.discovery"].seq > seen + 2, "b goes on")
            assert {beacon.node for beacon in at_a.received} == {"a", "b"}
            never.cancel()
            await asyncio.gather(never, return_exceptions=True)
        sender.close()

    with a.discovery(), b.discovery(a.peer), c.discovery(a.peer):
        run(body)


def test_a_cluster_of_the_same_name_at_a_static_address_is_another_one(tmp_path: Path) -> None:
    ours, theirs = Node("a", tmp_path / "ours"), Node("b", tmp_path / "theirs")

    async def body() -> None:
        async with (
            BeaconListener(ours.subscribe, ours.cluster) as at_ours,
            BeaconListener(theirs.subscribe, theirs.cluster) as at_theirs,
        ):
            sender = BeaconSender(theirs.publish, theirs.trust)
            beacon = beacon_of("planner", "b")
            await publish(sender, beacon, lambda: "b.planner" in at_theirs.newest)
            sender.close()
            await at_ours.wait_until(
                lambda newest: any(
                    "does not answer" in trouble
                    for beacon in newest.values()
                    if isinstance(beacon.facts, DiscoveryFacts)
                    for trouble in beacon.facts.troubles
                ),
                "the address is reported",
            )
            assert {x.node for x in at_ours.received} == {"a"}
            assert {x.node for x in at_theirs.received} == {"b"}

    with ours.discovery(theirs.peer), theirs.discovery(ours.peer):
        run(body)
