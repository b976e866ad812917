"""Compares a measured link with what its kind should give. Pure.

The figures are those of the planner's ``data/machines.toml``, which it plans with for clusters that
do not exist; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from pomona.messages.discovery import LinkFacts, NodeFacts

LinkState = Literal["good", "slow", "fallback", "down", "unmeasured"]

MIN_RATE_SHARE = 0.5
"""Share of the expected throughput below which a link is ``slow``."""
MAX_RTT_RATIO = 4.0
"""Multiple of the expected round trip above which a link is ``slow``."""
THUNDERBOLT_5_GBPS = 80
_NAMES: Final = {"thunderbolt": "Thunderbolt", "ethernet": "Ethernet", "wifi": "Wi-Fi"}


@dataclass(frozen=True, slots=True)
class LinkKind:
    """Typical figures of a kind of link, software included.

    Attributes:
        name: name for people.
        latency_us: time of a small message one way, microseconds.
        bytes_per_s: throughput of a large message one way.
    """

    name: str
    latency_us: float
    bytes_per_s: float


THUNDERBOLT_5: Final = LinkKind("Thunderbolt 5", 300, 4.0e9)
THUNDERBOLT_4: Final = LinkKind("Thunderbolt 4", 350, 2.2e9)
ETHERNET_10G: Final = LinkKind("10 Gigabit Ethernet", 300, 1.15e9)
ETHERNET_1G: Final = LinkKind("Gigabit Ethernet", 400, 0.115e9)
WIFI: Final = LinkKind("Wi-Fi", 3000, 0.05e9)


@dataclass(frozen=True, slots=True)
class ExpectedLink:
    """Expected speed of a link, and its measurement beside it.

    Attributes:
        node: name of the other node.
        kind: name of the kind of link, like ``Thunderbolt 5``; empty when it is not known.
        rtt_us: expected round trip of a small message, microseconds; 0 when it is not known.
        bytes_per_s: expected throughput of a large message; 0 when it is not known.
        state: ``fallback`` when a better kind connects the two machines but is not in use,
            ``slow`` below half of the expected throughput or above four times the round trip.
        reason: why the state is not ``good``, and what to do.
    """

    node: str
    kind: str
    rtt_us: float
    bytes_per_s: float
    state: LinkState
    reason: str = ""


def expected_link(link: LinkFacts, own: NodeFacts, other: NodeFacts) -> ExpectedLink:
    """Compares a link with its kind.

    Args:
        own: the machine that measured the link.
        other: the machine at its other end.
    """
    if not link.address:
        reason = f"none of its addresses answers ({', '.join(link.dead) or 'none is known'})"
        return ExpectedLink(link.node, "", 0.0, 0.0, "down", f"{reason}; check cable and network")
    kind = _kind(link, own, other)
    if kind is None:
        state: LinkState = "good" if link.bytes_per_s else "unmeasured"
        return ExpectedLink(link.node, "", 0.0, 0.0, state)
    state, reason = _state(link, kind, own, other)
    return ExpectedLink(link.node, kind.name, 2 * kind.latency_us, kind.bytes_per_s, state, reason)


def _kind(link: LinkFacts, own: NodeFacts, other: NodeFacts) -> LinkKind | None:
    match link.kind:
        case "thunderbolt":
            speeds = [port.gbps for port in own.thunderbolt if port.peer and port.gbps]
            speeds += [port.gbps for port in other.thunderbolt if port.peer and port.gbps]
            fast = speeds and min(speeds) >= THUNDERBOLT_5_GBPS
            return THUNDERBOLT_5 if fast else THUNDERBOLT_4
        case "ethernet":
            speeds = [*_ethernet_mbps(own), *_ethernet_mbps(other)]
            return ETHERNET_10G if speeds and min(speeds) >= 10_000 else ETHERNET_1G
        case "wifi":
            return WIFI
        case _:
            return None


def _ethernet_mbps(facts: NodeFacts) -> Iterable[int]:
    """Yields the speed of the fastest Ethernet interface, if one is known."""
    speeds = [x.mbps for x in facts.interfaces if x.kind == "ethernet" and x.mbps]
    return [max(speeds)] if speeds else []


def _state(
    link: LinkFacts, kind: LinkKind, own: NodeFacts, other: NodeFacts
) -> tuple[LinkState, str]:
    used = _NAMES.get(link.kind, link.kind)
    if link.kind != "thunderbolt" and _is_cabled(own, other):
        return (
            "fallback",
            f"a Thunderbolt cable connects the two, but messages go over {used}: give both ends "
            "of the cable an address (System Settings, Network, Thunderbolt Bridge)",
        )
    if link.kind == "wifi":
        return "fallback", "runs over Wi-Fi: connect both by Thunderbolt or Ethernet"
    if not link.bytes_per_s:
        return "unmeasured", ""
    if link.bytes_per_s < MIN_RATE_SHARE * kind.bytes_per_s:
        share = round(100 * link.bytes_per_s / kind.bytes_per_s)
        return "slow", f"carries {share}% of what {kind.name} should: check cable, port and switch"
    if link.rtt_us > MAX_RTT_RATIO * 2 * kind.latency_us:
        ratio = link.rtt_us / (2 * kind.latency_us)
        return "slow", f"answers {ratio:.0f} times as slowly as {kind.name} should"
    return "good", ""


def _is_cabled(own: NodeFacts, other: NodeFacts) -> bool:
    """Tests whether a Thunderbolt cable connects two machines."""
    theirs = {port.domain for port in other.thunderbolt if port.domain}
    return any(port.peer_domain in theirs for port in own.thunderbolt if port.peer_domain)
