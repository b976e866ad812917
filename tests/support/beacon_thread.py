"""Receives the beacons of a cluster in a thread, for tests without an event loop."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from pomona.messages.control import Beacon, Pipeline, PlannerFacts
from pomona.transport import BeaconReceiver
from support.processes import Node
from support.waiting import DEADLINE_S, wait_until


class BeaconThread:
    """Subscribes to the discovery service of one node while the block runs.

    Attributes:
        newest: the newest beacon of each service, by name.
        pipelines: every state of a pipeline that a planner published, in order.
    """

    def __init__(self, node: Node) -> None:
        self.newest: dict[str, Beacon] = {}
        self.pipelines: list[Pipeline] = []
        self._node = node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)

    def wait_active(self, above: int = 0, deadline_s: float = 3 * DEADLINE_S) -> Pipeline:
        """Waits for an active pipeline whose epoch is above the given one."""

        def found() -> Pipeline | None:
            return next(
                (
                    pipeline
                    for beacon in list(self.newest.values())
                    if isinstance(beacon.facts, PlannerFacts)
                    for pipeline in beacon.facts.pipelines
                    if pipeline.state == "active" and pipeline.epoch > above
                ),
                None,
            )

        wait_until(found, f"an epoch above {above} is active", deadline_s)
        pipeline = found()
        assert pipeline is not None
        return pipeline

    async def _run(self) -> None:
        receiver = BeaconReceiver(self._node.subscribe, self._node.cluster)
        try:
            while not self._stop.is_set():
                beacon = await receiver.receive(0.1)
                if beacon is None:
                    continue
                self.newest[beacon.name] = beacon
                if isinstance(beacon.facts, PlannerFacts):
                    for pipeline in beacon.facts.pipelines:
                        if not self.pipelines or self.pipelines[-1] != pipeline:
                            self.pipelines.append(pipeline)
        finally:
            await receiver.close()
