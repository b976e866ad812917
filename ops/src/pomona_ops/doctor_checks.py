"""What goes wrong in the field, as checks over what is known of the nodes: pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pomona.messages.control import (
    Beacon,
    DiscoveryFacts,
    Hardware,
    LinkFacts,
    NodeFacts,
    StageWorkerFacts,
)

Severity = Literal["ok", "info", "warning", "critical"]

LEAST_MACOS = (26, 2)
LEAST_THUNDERBOLT_GBPS = 80
MEMORY_SPREAD = 1.5
MOST_CLOCK_SKEW_S = 2.0
LEAST_DISK_BYTES = 50 * 10**9
LEAST_DISK_SHARE = 0.1
MOST_WIRED_SHARE = 0.95
LEAST_WIRED_SHARE = 0.6
ASYMMETRY = 2.0


@dataclass(frozen=True, slots=True)
class Node:
    """A machine as it is known.

    Attributes:
        pomona: version of Pomona there.
        mlx: version of MLX there; empty when no stage worker was heard.
        heard_at: Unix time when its clock was read.
    """

    name: str
    hardware: Hardware
    facts: NodeFacts
    pomona: str
    mlx: str = ""
    heard_at: float = 0.0
    links: tuple[LinkFacts, ...] = ()
    troubles: tuple[str, ...] = ()

    @property
    def is_mac(self) -> bool:
        return self.hardware.os_name == "macOS"


@dataclass(frozen=True, slots=True)
class Sight:
    """Everything that is checked.

    Attributes:
        taken_ports: ports of Pomona on this machine that somebody else uses, by use.
        running: whether a cluster was heard.
    """

    nodes: tuple[Node, ...]
    taken_ports: tuple[str, ...] = ()
    running: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; ``remedy`` says what to do, unless it is ``ok``."""

    check: str
    severity: Severity
    said: str
    remedy: str = ""


Check = Callable[[Sight], Iterable[Finding]]


def diagnose(sight: Sight) -> list[Finding]:
    """Every check's findings; a check that finds nothing says that it is well."""
    findings: list[Finding] = []
    for name, (check, well) in CHECKS.items():
        found = list(check(sight))
        findings += found or [Finding(name, "ok", well)]
    return findings


def nodes_of(beacons: Sequence[Beacon], heard_at: float) -> tuple[Node, ...]:
    """The nodes that a cluster's beacons tell of."""
    mlx = {
        beacon.node: beacon.facts.mlx_version
        for beacon in beacons
        if isinstance(beacon.facts, StageWorkerFacts)
    }
    return tuple(
        Node(
            beacon.node,
            beacon.facts.hardware,
            beacon.facts.machine,
            beacon.version,
            mlx.get(beacon.node, ""),
            heard_at,
            beacon.facts.links,
            beacon.facts.troubles,
        )
        for beacon in beacons
        if isinstance(beacon.facts, DiscoveryFacts)
    )


def macos_version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _macos_old(sight: Sight) -> Iterable[Finding]:
    for node in sight.nodes:
        if node.is_mac and macos_version(node.hardware.os_version) < LEAST_MACOS:
            yield Finding(
                "macos-version",
                "warning",
                f"{node.name} runs macOS {node.hardware.os_version}, older than 26.2",
                "update it in System Settings, General, Software Update: RDMA over "
                "Thunderbolt needs 26.2",
            )


def _macos_differs(sight: Sight) -> Iterable[Finding]:
    versions = {node.name: node.hardware.os_version for node in sight.nodes if node.is_mac}
    if len(set(versions.values())) > 1:
        said = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield Finding(
            "macos-differs",
            "warning",
            f"the nodes run different versions of macOS: {said}",
            "bring all to the same version: RDMA between different ones fails or is slow",
        )


def _rdma(sight: Sight) -> Iterable[Finding]:
    states = {node.name: node.facts.rdma for node in sight.nodes if node.is_mac}
    for node in sight.nodes:
        if not node.is_mac or not any(port.generation >= 5 for port in node.facts.thunderbolt):
            continue
        if node.facts.rdma == "disabled":
            others = "enabled" in states.values()
            yield Finding(
                "rdma",
                "critical" if others else "warning",
                f"RDMA is disabled on {node.name}" + (", but enabled on others" if others else ""),
                "start it into recovery (hold the power button), open Terminal, run "
                "`rdma_ctl enable`, restart",
            )
        elif node.facts.rdma == "enabled" and not node.facts.rdma_devices:
            yield Finding(
                "rdma",
                "warning",
                f"RDMA is enabled on {node.name}, but ibv_devices lists no device",
                "connect a Thunderbolt 5 cable from Mac to Mac, and restart that node",
            )


def _thunderbolt(sight: Sight) -> Iterable[Finding]:
    for node in sight.nodes:
        for port in node.facts.thunderbolt:
            if port.gbps and port.generation >= 5 and port.gbps < LEAST_THUNDERBOLT_GBPS:
                yield Finding(
                    "thunderbolt-cable",
                    "warning",
                    f"{node.name}, {port.name}, to {port.peer}: {port.gbps:g} Gb/s on a "
                    "Thunderbolt 5 port",
                    "use a cable marked Thunderbolt 5 (80 Gb/s) and a Thunderbolt 5 port at "
                    "both ends",
                )
            elif port.gbps and 0 < port.generation < 5:
                yield Finding(
                    "thunderbolt-cable",
                    "info",
                    f"{node.name}, {port.name}, is Thunderbolt {port.generation}",
                    "nothing is wrong; RDMA needs Thunderbolt 5",
                )


def _daisy_chain(sight: Sight) -> Iterable[Finding]:
    for node in sight.nodes:
        for port in node.facts.thunderbolt:
            if port.hops:
                yield Finding(
                    "daisy-chain",
                    "warning",
                    f"{node.name}, {port.name}: {port.peer} is behind {port.hops} other "
                    f"device{'s' if port.hops > 1 else ''}",
                    "connect the two Macs with a cable of their own, without dock, hub or "
                    "another Mac between them",
                )


def _wifi(sight: Sight) -> Iterable[Finding]:
    for node in sight.nodes:
        for link in node.links:
            if link.kind == "wifi":
                yield Finding(
                    "wifi",
                    "warning",
                    f"{node.name} reaches {link.node} best over Wi-Fi ({link.address})",
                    "connect both by Thunderbolt or Ethernet; if they are, look at "
                    "`pomona status` for addresses that do not answer",
                )


def _asymmetry(sight: Sight) -> Iterable[Finding]:
    rates = {(n.name, x.node): x.bytes_per_s for n in sight.nodes for x in n.links}
    for (a, b), rate in sorted(rates.items()):
        back = rates.get((b, a), 0.0)
        if rate > 0 and back > ASYMMETRY * rate:
            yield Finding(
                "asymmetry",
                "warning",
                f"{a} to {b} carries {rate / 1e6:.0f} MB/s, the way back {back / 1e6:.0f}",
                "look for another path one way: a second cable, a route over Wi-Fi, a switch "
                "port at half duplex",
            )


def _sleep(sight: Sight) -> Iterable[Finding]:
    for node in sight.nodes:
        if node.facts.sleep_minutes > 0:
            yield Finding(
                "sleep",
                "critical",
                f"{node.name} sleeps after {node.facts.sleep_minutes} idle minutes",
                "run `sudo pmset -a sleep 0 disksleep 0` there",
            )


def _updates(sight: Sight) -> Iterable[Finding]:
    for node in sight.nodes:
        if node.facts.automatic_updates == "on":
            yield Finding(
                "automatic-updates",
                "warning",
                f"{node.name} installs updates by itself, and restarts for them",
                "turn off `Install macOS updates` in System Settings, General, Software "
                "Update, Automatic Updates",
            )


def _wired_limit(sight: Sight) -> Iterable[Finding]:
    for node in sight.nodes:
        limit, memory = node.facts.wired_limit_bytes, node.hardware.memory_bytes
        if not limit or not memory:
            continue
        if limit > MOST_WIRED_SHARE * memory:
            yield Finding(
                "wired-limit",
                "critical",
                f"{node.name} lets the GPU wire {limit / 1e9:.0f} of {memory / 1e9:.0f} GB: "
                "nothing is left for the system",
                "leave it 4 GB at least: `sudo sysctl iogpu.wired_limit_mb="
                f"{(memory >> 20) - 6144}`",
            )
        elif limit < LEAST_WIRED_SHARE * memory:
            yield Finding(
                "wired-limit",
                "warning",
                f"{node.name} lets the GPU wire only {limit / 1e9:.0f} of {memory / 1e9:.0f} GB",
                "`sudo sysctl iogpu.wired_limit_mb=0` gives macOS's own limit back",
            )


def _memory_mixed(sight: Sight) -> Iterable[Finding]:
    sizes = sorted(node.hardware.memory_bytes for node in sight.nodes if node.hardware.memory_bytes)
    if len(sizes) < 2:
        return
    usual = sizes[len(sizes) // 2]
    for node in sight.nodes:
        memory = node.hardware.memory_bytes
        if memory and memory * MEMORY_SPREAD < usual:
            yield Finding(
                "memory-mixed",
                "info",
                f"{node.name} has {memory / 2**30:.0f} GB among nodes of {usual / 2**30:.0f} GB",
                "the planner gives it fewer layers, or none; `pomona plan` shows what that costs",
            )


def _saying(check: str, words: tuple[str, ...], severity: Severity, remedy: str) -> Check:
    """A check that finds what discovery services said of themselves."""

    def found(sight: Sight) -> Iterable[Finding]:
        for node in sight.nodes:
            for trouble in node.troubles:
                if any(word in trouble for word in words):
                    yield Finding(check, severity, f"{node.name}: {trouble}", remedy)

    return found


def _ports(sight: Sight) -> Iterable[Finding]:
    if not sight.running:
        for use in sight.taken_ports:
            yield Finding(
                "ports",
                "critical",
                f"the port for {use} is taken by another process",
                "end that process (`lsof -nP -iTCP -sTCP:LISTEN`), or start with --port",
            )


def _clock(sight: Sight) -> Iterable[Finding]:
    for node in sight.nodes:
        skew = node.facts.clock_s - node.heard_at
        if node.facts.clock_s and node.heard_at and abs(skew) > MOST_CLOCK_SKEW_S:
            yield Finding(
                "clock",
                "warning",
                f"the clock of {node.name} is {abs(skew):.0f} s "
                f"{'ahead of' if skew > 0 else 'behind'} this machine's",
                "turn on `Set time and date automatically` on both (timed, chrony or ntpd)",
            )


def _disk(sight: Sight) -> Iterable[Finding]:
    for node in sight.nodes:
        free, whole = node.facts.disk_free_bytes, node.facts.disk_bytes
        if whole and (free < LEAST_DISK_BYTES or free < LEAST_DISK_SHARE * whole):
            full = free < LEAST_DISK_BYTES / 10
            yield Finding(
                "disk",
                "critical" if full else "warning",
                f"{node.name} has {free / 1e9:.0f} GB of disk left",
                "remove models that are not used, or set POMONA_STATE_DIR to another disk",
            )


def _versions(sight: Sight) -> Iterable[Finding]:
    for what, versions in (
        ("Pomona", {node.name: node.pomona for node in sight.nodes}),
        ("MLX", {node.name: node.mlx for node in sight.nodes if node.mlx}),
    ):
        if len(set(versions.values())) > 1:
            said = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield Finding(
                "versions",
                "critical" if what == "Pomona" else "warning",
                f"the nodes run different versions of {what}: {said}",
                "install the same release of Pomona on every node",
            )


CHECKS: dict[str, tuple[Check, str]] = {
    "macos-version": (_macos_old, "every Mac runs macOS 26.2 or later"),
    "macos-differs": (_macos_differs, "all Macs run the same version of macOS"),
    "rdma": (_rdma, "no Mac with Thunderbolt 5 has RDMA off"),
    "thunderbolt-cable": (_thunderbolt, "every Thunderbolt 5 port in use runs at its speed"),
    "daisy-chain": (_daisy_chain, "no Mac is reached through another device"),
    "wifi": (_wifi, "no link between nodes runs over Wi-Fi"),
    "asymmetry": (_asymmetry, "links are as fast one way as the other"),
    "sleep": (_sleep, "no node goes to sleep"),
    "automatic-updates": (_updates, "no node restarts by itself for updates"),
    "wired-limit": (_wired_limit, "the memory that MLX may use is set sensibly"),
    "memory-mixed": (_memory_mixed, "no node has much less memory than the others"),
    "multicast": (
        _saying(
            "multicast",
            ("multicast",),
            "warning",
            "name the other nodes in POMONA_DISCOVERY_PEERS, or let mDNS (UDP 5353) through; "
            "on macOS allow Local Network in Privacy & Security",
        ),
        "multicast DNS works, or is not needed",
    ),
    "unreachable": (
        _saying(
            "unreachable",
            ("cannot be reached", "does not answer"),
            "critical",
            "open the peer port in the firewall of that node, and check its address",
        ),
        "every node that is known answers",
    ),
    "duplicate-node": (
        _saying(
            "duplicate-node",
            ("two processes are called", "bears this node's name"),
            "critical",
            "give each machine its own POMONA_NODE",
        ),
        "no two machines have one name",
    ),
    "two-clusters": (
        _saying(
            "two-clusters",
            ("another cluster", "planners"),
            "warning",
            "give one of them another POMONA_CLUSTER",
        ),
        "no two clusters have one name",
    ),
    "ports": (_ports, "Pomona's ports are free, or Pomona's own"),
    "clock": (_clock, "the clocks agree"),
    "disk": (_disk, "every node has disk left"),
    "versions": (_versions, "Pomona and MLX are the same everywhere"),
}
