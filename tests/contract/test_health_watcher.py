"""The health watcher beside real discovery services: losses and returns are posted to Slack."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pomona.messages.control import Beacon, HealthWatcherFacts, ServiceName
from pomona.transport import BeaconSender
from support.beacon_listener import BeaconListener, metrics_of
from support.beacons import beacon_of
from support.processes import Node, ServiceProcess
from support.slack_server import PATH, Answer, Slack
from support.waiting import wait_until_async


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(90):
            await body()

    asyncio.run(within())


class FakeService:
    """Sends the beacons of a service. It can die and start again."""

    def __init__(self, node: Node, service: ServiceName, **fields: Any) -> None:
        self._node = node
        self._service: ServiceName = service
        self._fields = fields
        self._sender = BeaconSender(node.publish)
        self._task: asyncio.Task[None] | None = None
        self.start()

    def start(self) -> None:
        self._task = asyncio.create_task(self._send_beacons(secrets.token_hex(4)))

    async def die(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def close(self) -> None:
        await self.die()
        self._sender.close()

    async def _send_beacons(self, boot: str) -> None:
        seq = 0
        while True:
            seq += 1
            self._sender.send(
                beacon_of(self._service, self._node.name, boot=boot, seq=seq, **self._fields)
            )
            await asyncio.sleep(0.3)


class WatchedNode:
    """Runs discovery and a health watcher on node ``mac``; the watcher posts to a Slack server."""

    def __init__(self, folder: Path, *answers: Answer) -> None:
        self.node = Node("mac", folder)
        self.slack = Slack(answers)
        self.discovery = self.node.discovery()
        self.watcher = self.node.health_watcher(
            POMONA_HEALTH_WATCHER_SLACK_WEBHOOK_URL=self.slack.url
        )
        self._stack = ExitStack()

    def __enter__(self) -> WatchedNode:
        for part in (self.slack, self.discovery, self.watcher):
            self._stack.enter_context(part)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        assert "secret" not in self.watcher.logged(), "the webhook was logged"
        assert "Traceback" not in self.watcher.logged() + self.discovery.logged()

    async def ready(self, *names: str) -> BeaconListener:
        """Returns when the watcher has received beacons from ``names`` and itself."""
        listener = BeaconListener(self.node.subscribe, self.node.cluster)
        wanted = {"mac.discovery", "mac.health_watcher", *names}
        await listener.wait_until(lambda newest: wanted <= set(newest), f"beacons of {wanted}")
        first = {name: listener.newest[name].seq for name in wanted}
        await listener.wait_until(
            lambda newest: all(newest[name].seq > seq + 1 for name, seq in first.items()),
            "two more beacons of each, since the watcher is connected",
        )
        return listener

    async def posted(self, *starts: str | tuple[str, ...], deadline_s: float = 20.0) -> None:
        """Waits for exactly these messages, given by the start of each text, or several."""

        def matches() -> bool:
            texts = self.slack.texts
            return len(texts) >= len(starts)

        await wait_until_async(matches, f"{starts} in Slack", deadline_s)
        texts = self.slack.texts
        assert len(texts) == len(starts), texts
        for text, start in zip(texts, starts, strict=True):
            assert text.startswith(start), texts


def alerts_of(beacon: Beacon) -> list[str]:
    assert isinstance(beacon.facts, HealthWatcherFacts)
    return [alert.key for alert in beacon.facts.alerts]


GATEWAY_LOST = "[critical] pomona: Service lost: gateway mac.gateway on node mac"
GATEWAY_BACK = "[resolved] pomona: Service lost: gateway mac.gateway on node mac"
GATEWAY_RESTARTED = "[warning] pomona: Service restarted: gateway mac.gateway on node mac died"
GATEWAY_RESTART_OVER = "[resolved] pomona: Service restarted: gateway mac.gateway"
DISCOVERY_LOST = "[critical] pomona: Service lost: discovery mac.discovery"
DISCOVERY_BACK = "[resolved] pomona: Service lost: discovery mac.discovery"
WATCHER_LOST = "[warning] pomona: Service restarted: health watcher mac.health_watcher on node"
WATCHER_BACK = "[resolved] pomona: Service restarted: health watcher mac.health_watcher"


def test_the_death_and_the_return_of_a_service_are_posted(tmp_path: Path) -> None:
    async def body() -> None:
        gateway = FakeService(watched.node, "gateway")
        listener = await watched.ready("mac.gateway")
        await gateway.die()
        await watched.posted(GATEWAY_LOST)
        await listener.wait_until(
            lambda newest: alerts_of(newest["mac.health_watcher"]) == ["service_lost/mac.gateway"],
            "the alert in the watcher's beacon",
        )
        page = metrics_of(listener.newest["mac.health_watcher"])
        assert 'alerts_active{severity="critical"} 1.0' in page
        gateway.start()
        await watched.posted(GATEWAY_LOST, GATEWAY_BACK)
        await listener.wait_until(
            lambda newest: alerts_of(newest["mac.health_watcher"]) == [], "no alert in the beacon"
        )
        await gateway.close()
        await listener.close()

    # Failed posts change neither order nor content.
    failures = [Answer(500, "rollup_error"), Answer(hang_up=True)]
    with WatchedNode(tmp_path, *failures) as watched:
        run(body)


def test_a_service_that_is_back_within_its_lease_is_posted_too(tmp_path: Path) -> None:
    async def body() -> None:
        gateway = FakeService(watched.node, "gateway")
        listener = await watched.ready("mac.gateway")
        await gateway.die()
        gateway.start()
        await watched.posted(GATEWAY_RESTARTED, GATEWAY_RESTART_OVER)
        await gateway.close()
        await listener.close()

    with WatchedNode(tmp_path) as watched:
        run(body)


def test_the_death_of_discovery_is_one_alert_and_one_resolution(tmp_path: Path) -> None:
    async def body() -> None:
        services = [FakeService(watched.node, "gateway"), FakeService(watched.node, "planner")]
        listener = await watched.ready("mac.gateway", "mac.planner")
        watched.discovery.kill()
        await watched.posted(DISCOVERY_LOST)
        watched.discovery.start()
        await watched.posted(DISCOVERY_LOST, DISCOVERY_BACK)
        for service in services:
            await service.close()
        await listener.close()

    with WatchedNode(tmp_path) as watched:
        run(body)


def test_a_discovery_that_is_restarted_at_once_is_posted_too(tmp_path: Path) -> None:
    async def body() -> None:
        listener = await watched.ready()
        watched.discovery.kill()
        watched.discovery.start()
        # It is lost for a while when its start takes longer than a lease.
        restarted = "pomona: Service restarted: discovery mac.discovery"
        await watched.posted(
            (f"[warning] {restarted}", DISCOVERY_LOST), (f"[resolved] {restarted}", DISCOVERY_BACK)
        )
        await listener.close()

    with WatchedNode(tmp_path) as watched:
        run(body)


def test_a_killed_watcher_reports_its_own_death_and_resolves_its_former_alerts(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        gateway = FakeService(watched.node, "gateway")
        listener = await watched.ready("mac.gateway")
        await gateway.die()
        await watched.posted(GATEWAY_LOST)
        path = watched.node.folder / "mac.health_watcher.json"
        await wait_until_async(
            lambda: "service_lost/mac.gateway" in path.read_text(), "the alert is in the state file"
        )
        watched.watcher.kill()
        gateway.start()
        watched.watcher.start()
        await watched.posted(GATEWAY_LOST, WATCHER_LOST, WATCHER_BACK, GATEWAY_BACK)
        await gateway.close()
        await listener.close()

    with WatchedNode(tmp_path) as watched:
        run(body)


def test_a_clean_stop_and_start_posts_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        listener = await watched.ready()
        assert await asyncio.to_thread(watched.watcher.stop) == 0
        watched.watcher.start()
        boot = listener.newest["mac.health_watcher"].boot
        await listener.wait_until(
            lambda newest: newest["mac.health_watcher"].boot != boot, "it is back"
        )
        assert await asyncio.to_thread(watched.watcher.stop) == 0
        await watched.posted()
        await listener.close()

    with WatchedNode(tmp_path) as watched:
        run(body)


def test_a_node_that_dies_is_one_alert(tmp_path: Path) -> None:
    async def body(other: Node, discovery: ServiceProcess) -> None:
        worker = FakeService(other, "stage_worker")
        listener = await watched.ready("other.discovery", "other.stage_worker")
        discovery.kill()
        await watched.posted("[critical] pomona: Node lost: node other is lost")
        discovery.start()
        await watched.posted("[critical] pomona: Node lost", "[resolved] pomona: Node lost")
        await worker.close()
        await listener.close()

    other = Node("other", tmp_path)
    with WatchedNode(tmp_path) as watched, other.discovery(watched.node.peer) as discovery:
        run(lambda: body(other, discovery))


def test_without_a_webhook_alerts_are_logged(tmp_path: Path) -> None:
    node = Node("mac", tmp_path)

    async def body(watcher: ServiceProcess) -> None:
        worker = FakeService(node, "stage_worker", facts={"usable_memory_bytes": 1})
        await wait_until_async(
            lambda: "alert raised: stage worker mac.stage_worker uses" in watcher.logged(),
            "the alert in the log",
        )
        await worker.close()

    with node.discovery(), node.health_watcher() as watcher:
        run(lambda: body(watcher))
        assert watcher.stop() == 0
        assert PATH not in watcher.logged()


def test_heartbeats_are_posted_at_the_interval_of_the_setting(tmp_path: Path) -> None:
    node = Node("mac", tmp_path)

    async def body(slack: Slack) -> None:
        await wait_until_async(lambda: len(slack.texts) >= 3, "three heartbeats in Slack")
        assert all(text.startswith("[heartbeat] ") for text in slack.texts)

    with Slack() as slack, node.discovery():
        watcher = node.health_watcher(
            POMONA_HEALTH_WATCHER_SLACK_WEBHOOK_URL=slack.url,
            POMONA_HEALTH_WATCHER_HEARTBEAT_S="0.5",
        )
        with watcher:
            run(lambda: body(slack))
