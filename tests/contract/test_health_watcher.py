"""The health watcher beside real discovery services: who dies is said, and who is back."""

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


class Speaker:
    """A stand-in for a service: it speaks, dies and is started again."""

    def __init__(self, node: Node, service: ServiceName, **fields: Any) -> None:
        self._node = node
        self._service: ServiceName = service
        self._fields = fields
        self._sender = BeaconSender(node.publish)
        self._task: asyncio.Task[None] | None = None
        self.start()

    def start(self) -> None:
        self._task = asyncio.create_task(self._speak(secrets.token_hex(4)))

    async def die(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def close(self) -> None:
        await self.die()
        self._sender.close()

    async def _speak(self, boot: str) -> None:
        seq = 0
        while True:
            seq += 1
            self._sender.send(
                beacon_of(self._service, self._node.name, boot=boot, seq=seq, **self._fields)
            )
            await asyncio.sleep(0.3)


class Scene:
    """Node ``mac`` with discovery and a health watcher that posts to a Slack."""

    def __init__(self, folder: Path, *answers: Answer) -> None:
        self.node = Node("mac", folder)
        self.slack = Slack(answers)
        self.discovery = self.node.discovery()
        self.watcher = self.node.health_watcher(
            POMONA_HEALTH_WATCHER_SLACK_WEBHOOK_URL=self.slack.url
        )
        self._stack = ExitStack()

    def __enter__(self) -> Scene:
        for part in (self.slack, self.discovery, self.watcher):
            self._stack.enter_context(part)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        assert "secret" not in self.watcher.logged(), "the webhook was logged"
        assert "Traceback" not in self.watcher.logged() + self.discovery.logged()

    async def ready(self, *names: str) -> BeaconListener:
        """Wait until the watcher hears ``names`` and itself."""
        listener = BeaconListener(self.node.subscribe, self.node.cluster)
        wanted = {"mac.discovery", "mac.health_watcher", *names}
        await listener.wait_until(lambda newest: wanted <= set(newest), f"{wanted} speak")
        first = {name: listener.newest[name].seq for name in wanted}
        await listener.wait_until(
            lambda newest: all(newest[name].seq > seq + 1 for name, seq in first.items()),
            "all have spoken to a watcher that listens",
        )
        return listener

    async def told(self, *starts: str, deadline_s: float = 20.0) -> None:
        """Wait for exactly these messages, by how their texts begin."""

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


GATEWAY_LOST = "[critical] Service lost: gateway mac.gateway on node mac"
GATEWAY_BACK = "[resolved] Service lost: gateway mac.gateway on node mac"
DISCOVERY_LOST = "[critical] Service lost: discovery mac.discovery"
DISCOVERY_BACK = "[resolved] Service lost: discovery mac.discovery"
WATCHER_LOST = "[warning] Service lost: health watcher mac.health_watcher on node mac died"
WATCHER_BACK = "[resolved] Service lost: health watcher mac.health_watcher"


def test_a_service_that_dies_is_said_and_so_is_its_return(tmp_path: Path) -> None:
    async def body() -> None:
        gateway = Speaker(scene.node, "gateway")
        listener = await scene.ready("mac.gateway")
        await gateway.die()
        await scene.told(GATEWAY_LOST)
        await listener.wait_until(
            lambda newest: alerts_of(newest["mac.health_watcher"]) == ["service_lost/mac.gateway"],
            "the alert in the watcher's beacon",
        )
        page = metrics_of(listener.newest["mac.health_watcher"])
        assert 'alerts_active{severity="critical"} 1.0' in page
        gateway.start()
        await scene.told(GATEWAY_LOST, GATEWAY_BACK)
        await listener.wait_until(
            lambda newest: alerts_of(newest["mac.health_watcher"]) == [], "no alert in the beacon"
        )
        await gateway.close()
        await listener.close()

    # Slack has its troubles too; order and content do not suffer.
    trouble = [Answer(500, "rollup_error"), Answer(hang_up=True)]
    with Scene(tmp_path, *trouble) as scene:
        run(body)


def test_a_service_that_is_back_within_its_lease_is_said_too(tmp_path: Path) -> None:
    async def body() -> None:
        gateway = Speaker(scene.node, "gateway")
        listener = await scene.ready("mac.gateway")
        await gateway.die()
        gateway.start()
        await scene.told(GATEWAY_LOST + " died", GATEWAY_BACK)
        await gateway.close()
        await listener.close()

    with Scene(tmp_path) as scene:
        run(body)


def test_the_death_of_discovery_is_one_alert_and_one_resolution(tmp_path: Path) -> None:
    async def body() -> None:
        speakers = [Speaker(scene.node, "gateway"), Speaker(scene.node, "planner")]
        listener = await scene.ready("mac.gateway", "mac.planner")
        scene.discovery.kill()
        await scene.told(DISCOVERY_LOST)
        scene.discovery.start()
        await scene.told(DISCOVERY_LOST, DISCOVERY_BACK)
        for speaker in speakers:
            await speaker.close()
        await listener.close()

    with Scene(tmp_path) as scene:
        run(body)


def test_a_discovery_that_is_restarted_at_once_is_said_too(tmp_path: Path) -> None:
    async def body() -> None:
        listener = await scene.ready()
        scene.discovery.kill()
        scene.discovery.start()
        await scene.told(DISCOVERY_LOST, DISCOVERY_BACK)
        await listener.close()

    with Scene(tmp_path) as scene:
        run(body)


def test_a_killed_watcher_says_so_when_it_is_back_and_resolves_what_it_had_told(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        gateway = Speaker(scene.node, "gateway")
        listener = await scene.ready("mac.gateway")
        await gateway.die()
        await scene.told(GATEWAY_LOST)
        path = scene.node.folder / "mac.health_watcher.json"
        await wait_until_async(
            lambda: "service_lost/mac.gateway" in path.read_text(), "what was told is kept"
        )
        scene.watcher.kill()
        gateway.start()
        scene.watcher.start()
        await scene.told(GATEWAY_LOST, WATCHER_LOST, WATCHER_BACK, GATEWAY_BACK)
        await gateway.close()
        await listener.close()

    with Scene(tmp_path) as scene:
        run(body)


def test_a_clean_stop_and_start_is_nothing_to_tell(tmp_path: Path) -> None:
    async def body() -> None:
        listener = await scene.ready()
        assert await asyncio.to_thread(scene.watcher.stop) == 0
        scene.watcher.start()
        boot = listener.newest["mac.health_watcher"].boot
        await listener.wait_until(
            lambda newest: newest["mac.health_watcher"].boot != boot, "it is back"
        )
        assert await asyncio.to_thread(scene.watcher.stop) == 0
        await scene.told()
        await listener.close()

    with Scene(tmp_path) as scene:
        run(body)


def test_a_node_that_dies_is_one_alert(tmp_path: Path) -> None:
    async def body(other: Node, discovery: ServiceProcess) -> None:
        worker = Speaker(other, "stage_worker")
        listener = await scene.ready("other.discovery", "other.stage_worker")
        discovery.kill()
        await scene.told("[critical] Node lost: node other is lost")
        discovery.start()
        await scene.told("[critical] Node lost", "[resolved] Node lost")
        await worker.close()
        await listener.close()

    other = Node("other", tmp_path)
    with Scene(tmp_path) as scene, other.discovery(scene.node.peer) as discovery:
        run(lambda: body(other, discovery))


def test_without_a_webhook_alerts_are_logged(tmp_path: Path) -> None:
    node = Node("mac", tmp_path)

    async def body(watcher: ServiceProcess) -> None:
        worker = Speaker(node, "stage_worker", facts={"usable_memory_bytes": 1})
        await wait_until_async(
            lambda: "alert raised: stage worker mac.stage_worker uses" in watcher.logged(),
            "the alert in the log",
        )
        await worker.close()

    with node.discovery(), node.health_watcher() as watcher:
        run(lambda: body(watcher))
        assert watcher.stop() == 0
        assert PATH not in watcher.logged()
