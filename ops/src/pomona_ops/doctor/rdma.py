"""``pomona doctor rdma``: what the Macs lack for a tensor group over RDMA, and what to do about it.

Sources: Apple's technical note TN3205 (macOS 26.2, ``rdma_ctl enable`` in recovery mode,
Thunderbolt 5) and mlx's documentation of its ``jaccl`` backend (no bridge, a cable between each
two machines).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from typing import Any, Final

from pomona_ops.doctor.snapshot import Check, Fault, Node, Snapshot, each

THUNDERBOLT: Final = 5
MACOS: Final = (26, 2)
MAX_MACS: Final = 4
NOT_RUN: Final = (
    "Pomona forms no group over RDMA yet: models run as pipelines whatever these checks say"
)


def _generation(node: Node) -> int:
    """Returns the Thunderbolt version of the machine; 0 when unknown."""
    return max((port.generation for port in node.facts.thunderbolt), default=0)


def _is_capable(node: Node) -> bool:
    return node.is_mac and _generation(node) in (0, THUNDERBOLT)


def _hardware(node: Node) -> Iterable[Fault]:
    generation = _generation(node)
    if node.is_mac and generation not in (0, THUNDERBOLT):
        yield Fault(
            "warning",
            f"{node.name} has Thunderbolt {generation}, and RDMA needs Thunderbolt {THUNDERBOLT}",
            "nothing adds it: no setting, cable or update; run this Mac in a pipeline",
        )
    elif node.is_mac and not generation:
        yield Fault(
            "warning",
            f"the Thunderbolt version of {node.name} is not known",
            "run `system_profiler SPThunderboltDataType` on it: ports with RDMA have 80 Gb/s",
        )


def _system(node: Node) -> Iterable[Fault]:
    numbers = tuple(int(x) for x in re.findall(r"\d+", node.hardware.os_version)[:2])
    if _is_capable(node) and numbers < MACOS:
        yield Fault(
            "warning",
            f"{node.name} runs macOS {node.hardware.os_version}, and RDMA needs 26.2",
            "update macOS",
        )


def _enabled(node: Node) -> Iterable[Fault]:
    if _is_capable(node) and node.facts.rdma != "enabled":
        state = "not known" if node.facts.rdma == "unknown" else node.facts.rdma
        yield Fault(
            "warning",
            f"RDMA is {state} on {node.name}",
            "start it in recovery mode (hold the power button), open Terminal, run "
            "`rdma_ctl enable` and restart; `rdma_ctl status` must then say enabled",
        )


def _bridge(node: Node) -> Iterable[Fault]:
    if _is_capable(node) and node.facts.bridge_members:
        yield Fault(
            "warning",
            f"the Thunderbolt Bridge of {node.name} holds {', '.join(node.facts.bridge_members)}",
            "run `sudo ifconfig bridge0 down` and `sudo networksetup -setnetworkserviceenabled "
            '"Thunderbolt Bridge" off` on it',
        )


def _addresses(node: Node) -> Iterable[Fault]:
    """Compares the RDMA ports that have an IPv4 address with the Macs on direct cables."""
    facts = node.facts
    if not _is_capable(node) or facts.rdma != "enabled":
        return
    named = {x.name for x in facts.interfaces if re.fullmatch(r"\d+(\.\d+){3}", x.address)}
    usable = [x for x in facts.rdma_devices if x.removeprefix("rdma_") in named]
    cables = len({port.peer_domain for port in facts.thunderbolt if _is_direct(port)})
    if not facts.rdma_devices:
        yield Fault(
            "warning",
            f"RDMA is enabled on {node.name}, and `ibv_devices` names no device",
            "restart it; a device has few queue pairs, and a crash loses them until then",
        )
    elif len(usable) < cables:
        yield Fault(
            "warning",
            f"{node.name} has cables to {cables} Macs, and {len(usable)} RDMA ports with an IPv4 "
            "address",
            "give each Thunderbolt port an address of its own in System Settings, Network",
        )


def _studio(node: Node) -> Iterable[Fault]:
    if _is_capable(node) and "Studio" in node.facts.product:
        yield Fault(
            "info",
            f"{node.name} is a Mac Studio, whose port beside Ethernet has no RDMA",
            "use other Thunderbolt ports for the cables of a group",
        )


def _is_direct(port: Any) -> bool:
    return bool(port.peer_domain) and port.hops == 0


def _cables(snapshot: Snapshot) -> Iterable[Fault]:
    macs = [node for node in snapshot.macs if _is_capable(node)]
    if not 2 <= len(macs) <= MAX_MACS:
        return
    owners = {x.domain: node.name for node in macs for x in node.facts.thunderbolt if x.domain}
    found = {
        frozenset((port.domain, port.peer_domain))
        for node in macs
        for port in node.facts.thunderbolt
        if _is_direct(port) and port.domain in owners and port.peer_domain in owners
    }
    count = Counter(frozenset(owners[domain] for domain in cable) for cable in found)
    for one, other in combinations(sorted(node.name for node in macs), 2):
        cables = count[frozenset((one, other))]
        if not cables:
            yield Fault(
                "warning",
                f"no Thunderbolt cable joins {one} and {other} directly",
                "connect them; a group needs a cable between each two Macs, without a dock or hub",
            )
        elif cables > 1:
            yield Fault(
                "warning",
                f"{cables} Thunderbolt cables join {one} and {other}",
                "leave one: with two, the Macs may choose different ones and wait for ever",
            )


RDMA_CHECKS: Final = {
    "rdma-hardware": each(_hardware, "every Mac has Thunderbolt 5", needs="mac"),
    "rdma-macos": each(_system, "every Mac with Thunderbolt 5 has macOS 26.2", needs="mac"),
    "rdma-enabled": each(_enabled, "RDMA is enabled where it is possible", needs="mac"),
    "rdma-bridge": each(_bridge, "no Thunderbolt Bridge holds an RDMA port", needs="mac"),
    "rdma-addresses": each(_addresses, "every RDMA port to a Mac has an IPv4 address", needs="mac"),
    "rdma-studio": each(_studio, "no Mac has a port without RDMA", needs="mac"),
    "rdma-cables": Check(_cables, "one cable joins each two Macs of a group", needs="several"),
}
"""The checks of ``pomona doctor rdma``; plain ``pomona doctor`` runs none of them."""


def rdma_machines(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Returns what a bug report needs of each Mac."""
    return [
        {
            "node": node.name,
            "chip": node.hardware.chip,
            "product": node.facts.product,
            "macos": node.hardware.os_version,
            "mlx": node.mlx,
            "thunderbolt": _generation(node),
            "rdma": node.facts.rdma,
            "rdma_devices": list(node.facts.rdma_devices),
            "bridge_members": list(node.facts.bridge_members),
            "ports": list(node.facts.thunderbolt),
        }
        for node in snapshot.macs
    ]
