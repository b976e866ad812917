"""Seeded random faults on two nodes, while greedy streams run."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from support.chaos.streams import Stream, ended, started
from support.chaos.two_nodes import ADDRESSES, TwoNodes

STREAMS = 8
TOKENS = 120
PAUSE_S = (4.0, 20.0)
"""Shortest and longest time between two faults."""
GROWTH = 1.15
"""Growth of a process's memory that counts as lost: other prompts keep other prefixes."""
DESCRIPTORS = 12
"""Descriptors that a process may have more than at the start: links to restarted neighbours."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the cluster, and its duration."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object] = lambda: None
    lasts_s: float = 0.0


def choose_fault(cluster: TwoNodes, rng: random.Random, kills_gateway: bool) -> Fault:
    """Draws a fault and whom it strikes."""
    services = [x for x in cluster.services if kills_gateway or not x.endswith(".gateway")]
    service = rng.choice(services)
    node = rng.choice(list(ADDRESSES))
    lasts_s = rng.uniform(1.0, 15.0)

    def both(action: Callable[[str], None]) -> Callable[[], None]:
        def act() -> None:
            for name in ADDRESSES:
                action(name)

        return act

    def kill_workers() -> None:
        for name in cluster.services:
            if name.endswith("stage_worker"):
                cluster.signal(name, signal.SIGKILL)

    faults = [
        Fault(f"kill {service}", lambda: cluster.signal(service, signal.SIGKILL)),
        Fault("kill all stage workers", kill_workers),
        Fault(f"restart {service}", lambda: cluster.signal(service, signal.SIGTERM)),
        Fault(
            f"stop {service} for {lasts_s:.1f} s",
            lambda: cluster.signal(service, signal.SIGSTOP),
            lambda: cluster.signal(service, signal.SIGCONT),
            lasts_s,
        ),
        Fault(
            f"partition for {lasts_s:.1f} s",
            both(cluster.swallow), both(cluster.deliver), lasts_s,
        ),
        Fault(
            f"lose what {node} sends for {lasts_s:.1f} s",
            lambda: cluster.swallow(node), lambda: cluster.deliver(node), lasts_s,
        ),
        Fault(
            f"slow {node} down for {lasts_s:.1f} s",
            lambda: cluster.slow_down(node, 1), lambda: cluster.restore_speed(node), lasts_s,
        ),
        Fault(
            f"fill the disk of {node} for {lasts_s:.1f} s",
            lambda: cluster.fill_disk(node), lambda: cluster.free_disk(node), lasts_s,
        ),
    ]  # fmt: skip
    return rng.choice(faults)


class Streams:
    """Keeps a number of streams running, and compares each with the undisturbed text."""

    def __init__(self, cluster: TwoNodes) -> None:
        self._cluster = cluster
        self._running: list[Stream] = []
        self.finished = 0
        self.wrong: list[str] = []
        self.undisturbed = ended(
            started([cluster.stream(number, TOKENS) for number in range(STREAMS)])
        )

    def keep_running(self) -> None:
        """Collects the streams that have ended and starts others in their place."""
        for stream in [x for x in self._running if not x.is_alive()]:
            self._collect(stream)
        missing = set(range(STREAMS)) - {stream.number for stream in self._running}
        for number in missing:
            stream = self._cluster.stream(number, TOKENS)
            stream.start()
            self._running.append(stream)

    def finish(self, deadline_s: float) -> None:
        ends_at = time.monotonic() + deadline_s
        for stream in list(self._running):
            stream.join(max(ends_at - time.monotonic(), 0.0))
            if stream.is_alive():
                self.wrong.append(f"{stream.name} has not ended, after {len(stream.chunks)} chunks")
            else:
                self._collect(stream)

    def _collect(self, stream: Stream) -> None:
        self._running.remove(stream)
        self.finished += 1
        if stream.error:
            self.wrong.append(f"{stream.name}: {stream.error}")
        elif stream.text != self.undisturbed[stream.number]:
            self.wrong.append(f"{stream.name}: {stream.text!r}")


def play(
    cluster: TwoNodes, seed: int, seconds: float, report: Callable[[str], None]
) -> Sequence[str]:
    """Plays faults for a time. Returns the faults found at the end."""
    rng = random.Random(seed)
    streams = Streams(cluster)
    streams.keep_running()
    descriptors, resident = cluster.descriptors(), cluster.resident_bytes()
    pids = dict(cluster.supervisor.pids())
    began = time.monotonic()

    def wait(duration_s: float) -> None:
        ends_at = time.monotonic() + duration_s
        while time.monotonic() < ends_at:
            streams.keep_running()
            time.sleep(0.1)

    while time.monotonic() - began < seconds:
        fault = choose_fault(cluster, rng, kills_gateway=False)
        report(f"{time.monotonic() - began:6.1f} s  {fault.name}; {streams.finished} finished")
        fault.begin()
        wait(fault.lasts_s)
        fault.end()
        wait(rng.uniform(*PAUSE_S))
    streams.finish(180.0)
    cluster.wait_ready()
    report(f"{streams.finished} texts, {cluster.restarts()} restarts, {len(streams.wrong)} wrong")
    wrong = list(streams.wrong)
    for name, pid in cluster.supervisor.pids().items():
        if pids.get(name) != pid:
            continue
        if (now := cluster.resident_bytes()[name]) > resident[name] * GROWTH + (64 << 20):
            wrong.append(f"{name} grew from {resident[name] >> 20} to {now >> 20} MB")
        if (count := cluster.descriptors()[name]) > descriptors[name] + DESCRIPTORS:
            wrong.append(f"{name} has {count} descriptors instead of {descriptors[name]}")
    return wrong
