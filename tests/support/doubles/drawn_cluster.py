"""A scripted cluster of four Macs with cables, links, sensors and alerts."""

from __future__ import annotations

import time
from dataclasses import replace

from pomona.messages.control import (
    Alert,
    Beacon,
    HealthWatcherFacts,
    Pipeline,
    PlannerFacts,
    Prediction,
    SpeculationStatus,
    Stage,
    StageStatus,
    StageWorkerFacts,
    WantedModel,
)
from pomona.messages.discovery import (
    DiscoveryFacts,
    Hardware,
    Interface,
    LinkFacts,
    NodeFacts,
    ThunderboltPort,
)
from support.doubles.scripted_cluster import ScriptedCluster

LARGE = "Qwen3-32B-4bit"
NODES = ("near", "far", "mini-3", "mini-4")
GB = 10**9
PREDICTION = Prediction(
    11.8, 14.2, 8, 61.0, 1024, 2.3, 48_000, (900.0, 1100.0), 120.0, (300.0, 310.0),
    notes=("far is 1.2 times as busy as near",),
)  # fmt: skip


class DrawnCluster(ScriptedCluster):
    """Adds machines, links and a second, loading pipeline to a scripted cluster.

    Attributes:
        alerts: alerts of the health watcher.
        gone: nodes that send no beacon.
        busy: True while the stages of the first pipeline report steps.
        loaded: share of the second pipeline's weights in memory, 0 to 1.
    """

    alerts: tuple[Alert, ...] = ()
    gone: frozenset[str] = frozenset()
    busy = False
    loaded = 0.4
    _steps = 0

    def _beacons(self) -> list[Beacon]:
        self._steps += 8 if self.busy else 0
        beacons = [self._with_work(beacon) for beacon in super()._beacons()]
        for index, node in enumerate(NODES):
            beacons.append(self._beacon(f"{node}.discovery", f"d{index}", _discovery(node), {}))
        for node in NODES[2:]:
            facts = StageWorkerFacts("metal", 48 * GB, 20 * GB, (self._large_stage(node),))
            beacons.append(self._beacon(f"{node}.stage_worker", f"w-{node}", facts, {}))
        watcher = HealthWatcherFacts(self.alerts)
        beacons.append(self._beacon("near.health_watcher", "h", watcher, {}))
        return [beacon for beacon in beacons if beacon.node not in self.gone]

    def _with_work(self, beacon: Beacon) -> Beacon:
        match beacon.facts:
            case PlannerFacts(pipelines=pipelines) as plan:
                pipelines = tuple(
                    replace(
                        x,
                        prediction=PREDICTION,
                        stages=tuple(
                            replace(stage, start=15 * n, stop=15 * n + 15)
                            for n, stage in enumerate(x.stages)
                        ),
                        layer_count=30,
                    )
                    for x in pipelines
                )
                known = WantedModel("spare", "/models/spare", False, 1.0)
                facts = replace(plan, pipelines=(*pipelines, self._large()), models=(known,))
                return replace(beacon, facts=facts)
            case StageWorkerFacts(stages=(status,)) as facts:
                is_head = status.start == 0
                status = replace(
                    status,
                    loaded_bytes=9 * GB,
                    total_bytes=9 * GB,
                    decode_us=950.0,
                    token_us=81_000.0 if is_head else 0.0,
                    start=15 * status.start,
                    stop=15 * status.start + 15,
                    speculation=SpeculationStatus(drafted=200, accepted=124, tokens_per_round=1.6)
                    if is_head
                    else None,
                )
                facts = replace(
                    facts,
                    device="metal",
                    usable_memory_bytes=48 * GB,
                    stages=(status,),
                    cache_bytes=6 * GB,
                    prefix_bytes=2 * GB,
                    prefixes=3,
                    lanes=2 if is_head and self.busy else 0,
                    step_tokens=1 if self.busy else 0,
                    compute_us=self._steps * 10_000,
                    tokens_per_second=0.0 if is_head or not self.busy else 38.5,
                )
                return replace(beacon, facts=facts, progress=self._steps)
            case _:
                return beacon

    def _large(self) -> Pipeline:
        stages = tuple(
            Stage(f"{node}.stage_worker", 32 * n, 32 * n + 32, "tcp://127.0.0.1:9")
            for n, node in enumerate(NODES[2:])
        )
        return Pipeline(LARGE, "mlx-community/Qwen3-32B-4bit", 3, 64, "forming", stages)

    def _large_stage(self, node: str) -> StageStatus:
        start = 32 * NODES[2:].index(node)
        loaded = int(9 * GB * self.loaded)
        return StageStatus(LARGE, 3, start, start + 32, "loading", loaded, 9 * GB)


def _discovery(node: str) -> DiscoveryFacts:
    hardware = Hardware("Apple M4 Pro", 14, 64 * 2**30, 48 * GB, "macOS", "26.2")
    cable = ThunderboltPort("port 1", 5, 80.0, "Mac16,11", 0, "", f"domain-{node}", "domain-near")
    machine = NodeFacts(
        "Mac16,11",
        thunderbolt=(cable,) if node in ("near", "far") else (),
        watts=31.0 if node != "mini-4" else 0.0,
        celsius=58.0,
        disk_free_bytes=412 * GB,
        clock_s=time.time(),
        product="Mac mini",
        interfaces=(Interface("en0", "ethernet", "10.0.0.1", 10_000),),
    )
    if node == "near":
        peer = replace(cable, domain="domain-near", peer_domain="domain-far")
        machine = replace(machine, thunderbolt=(peer,))
    links = {
        "near": (_link("far", "thunderbolt", 580.0, 3.7e9), _link("mini-4", "wifi", 6100.0, 4e7)),
        "far": (
            _link("near", "thunderbolt", 590.0, 3.6e9),
            _link("mini-3", "wifi", 5200.0, 3.8e7),
        ),
        "mini-3": (_link("mini-4", "ethernet", 610.0, 0.31e9),),
        "mini-4": (),
    }
    return DiscoveryFacts(hardware, (), machine, links[node])


def _link(node: str, kind: str, rtt_us: float, bytes_per_s: float) -> LinkFacts:
    return LinkFacts(node, "10.0.0.2", kind, rtt_us, 20.0, bytes_per_s, 1e6)
