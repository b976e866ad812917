"""Control plane of a cluster, for tests of the gateway: planner, discovery and stage workers.

A real beacon proxy carries the beacons, so a gateway finds the scripted head like a real one.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Self

from pomona.messages.control import (
    Beacon,
    Facts,
    GatewayFacts,
    NodeDrain,
    Pipeline,
    PlannerFacts,
    Stage,
    StageStatus,
    StageWorkerFacts,
    State,
    WantedModel,
)
from pomona.messages.placement import MachineChoice, Placement
from pomona.transport import BeaconProxy, BeaconReceiver, BeaconSender, use
from support.doubles.scripted_head import WORKERS, Script, ScriptedHead, Submitted
from support.members import scripted_keys
from support.ports import free_port

BEACON_INTERVAL_S = 0.2


class ScriptedCluster:
    """A beacon proxy, and the beacons of a planner and two stage workers.

    Attributes:
        state: state of the pipeline in the planner's beacon.
        stage_state: state of both stages in the workers' beacons.
        address: address of the head in the plan, when it is not its endpoint.
        sequence_tokens: tokens in the head's KV cache, of 1000.
        models: models in the planner's beacon, loaded or not.
        drains: decisions on nodes that a gateway wants to drain.
        placement: newest choices for machines that a gateway has wanted.
        refused_placement: why the planner refuses them; empty when it takes them.
        plans_nothing: the planner's beacon has no pipeline.
        silent: services that publish no beacons.
        gateways: newest beacon of each gateway, by boot id, newest last.
    """

    def __init__(self, head: ScriptedHead, model: str, source: str) -> None:
        self.head = head
        self.model = model
        self.source = source
        self.epoch = 1
        self.state = "active"
        self.stage_state = "ready"
        self.planner_state: State = "ready"
        self.address = ""
        self.sequence_tokens = 0
        self.models: tuple[WantedModel, ...] = ()
        self.plans_nothing = False
        self.drains: dict[str, NodeDrain] = {}
        self.placement = Placement()
        self.kept_choices: tuple[MachineChoice, ...] = ()
        self.refused_placement = ""
        self.silent: set[str] = set()
        self.gateways: dict[str, Beacon] = {}
        self.publish = f"tcp://127.0.0.1:{free_port()}"
        self.subscribe = f"tcp://127.0.0.1:{free_port()}"
        use(scripted_keys(), self.publish, self.subscribe)
        self._seq = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="scripted cluster")
        self._thread.start()

    def change(self) -> None:
        """Publishes all beacons now."""
        self._loop.call_soon_threadsafe(self._changed.set)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        proxy = BeaconProxy(self.publish, self.subscribe, "tcp://127.0.0.1:*")
        sender = BeaconSender(self.publish)
        receiver = BeaconReceiver(self.subscribe, "pomona")

        async def forward() -> None:
            while True:
                await proxy.send_local(await proxy.receive_local())

        async def receive() -> None:
            while True:
                beacon = await receiver.receive(1.0)
                if beacon is not None and isinstance(beacon.facts, GatewayFacts):
                    for request in beacon.facts.drains:
                        state = "draining" if request.drained else "ended"
                        self.drains[request.node] = NodeDrain(request.node, state, at=request.at)
                    if beacon.facts.placement is not None:
                        self.placement = beacon.facts.placement
                    self.gateways.pop(beacon.boot, None)
                    self.gateways[beacon.boot] = beacon

        async def publish() -> None:
            while True:
                self._changed.clear()
                for beacon in self._beacons():
                    sender.send(beacon)
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEACON_INTERVAL_S):
                        await self._changed.wait()

        work = (forward(), receive(), publish(), proxy.drain_subscriptions())
        tasks = [asyncio.ensure_future(x) for x in work]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sender.close()
        await receiver.close()
        proxy.close()

    def _beacons(self) -> list[Beacon]:
        stages = tuple(
            Stage(name, n, n + 1, self.head.endpoint, "" if n else self.address)
            for n, name in enumerate(WORKERS)
        )
        state = self.state
        assert state in ("forming", "active", "impossible")
        pipeline = Pipeline(
            self.model, self.source, self.epoch, 2, state, stages, cache_tokens=1000
        )
        assert self.stage_state in ("loading", "ready", "failed")
        plan = PlannerFacts(
            () if self.plans_nothing else (pipeline,),
            self.models,
            drains=tuple(self.drains.values()),
            placement=self._confirmed(),
        )
        beacons = [self._beacon("near.planner", "plan", plan, {})]
        for n, name in enumerate(WORKERS):
            status = StageStatus(
                self.model, self.epoch, n, n + 1, self.stage_state, 25 * (n + 1), 100,
                sequence_tokens=self.sequence_tokens,
            )  # fmt: skip
            facts = StageWorkerFacts("cpu", 1, 1, (status,))
            boot = f"{self.head.boot}-{n}"
            beacons.append(self._beacon(name, boot, facts, {"data": self.head.endpoint}))
        return [beacon for beacon in beacons if beacon.facts.service not in self.silent]

    def _confirmed(self) -> Placement:
        """Returns the choices that a gateway wants, or why they are refused."""
        if not self.refused_placement:
            self.kept_choices = self.placement.choices
        return Placement(self.kept_choices, self.placement.at, self.refused_placement)

    def _beacon(self, name: str, boot: str, facts: Facts, endpoints: dict[str, str]) -> Beacon:
        state = self.planner_state if facts.service == "planner" else "ready"
        seq = next(self._seq)
        node = name.split(".")[0]
        return Beacon("pomona", name, node, boot, seq, "0", 1, state, 0, 0, endpoints, facts)

    @classmethod
    @contextmanager
    def running(
        cls, script: Callable[[Submitted], Script], model: str, source: str
    ) -> Generator[Self]:
        """Runs a scripted head and its cluster while the block runs."""
        head = ScriptedHead(script)
        try:
            cluster = cls(head, model, source)
            try:
                yield cluster
            finally:
                cluster.close()
        finally:
            head.close()
