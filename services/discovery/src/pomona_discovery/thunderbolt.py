"""Parses the output of a Mac's commands about Thunderbolt and RDMA.

Sources: ``man 8 system_profiler``; the keys of ``SPThunderboltDataType`` as recorded on Macs
(``receptacle_1_tag`` of a bus holds ``current_speed_key`` and the receptacle's id; connected
devices are nested under ``_items``; another computer has a ``domain_uuid_key``, a dock, hub or
disk has none); Apple's technical note TN3205 on RDMA over Thunderbolt (``rdma_ctl``, macOS 26.2)
and ``man 1 ibv_devices``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, cast

import orjson

from pomona.messages.discovery import ThunderboltPort
from pomona.messages.limits import MAX_THUNDERBOLT_PORTS
from pomona_discovery.system_profiler_text import parse_text

Rdma = Literal["unknown", "unsupported", "disabled", "enabled"]
Content = dict[str, Any]

MAX_DEPTH = 8
"""Devices in a chain. Thunderbolt allows six."""
_SPEED = re.compile(r"(\d+(?:[.,]\d+)?)\s*Gb(?:it|its|ps)?(?:/s)?", re.IGNORECASE)
_GENERATIONS = ((79, 5), (39, 4), (19, 3))
"""Minimum nominal Gb/s and generation. Thunderbolt 3 and 4 have the same speed."""


def thunderbolt_ports(text: str) -> tuple[ThunderboltPort, ...]:
    """Parses the ports from ``system_profiler SPThunderboltDataType``, with or without ``-json``.

    A port has one entry for each computer behind it, and one entry when there is none.

    Raises ValueError when the text is not valid output.
    """
    buses = _buses(text)
    speeds = [_speed(tag) for bus in buses for _, tag in _receptacles(bus)]
    generation = _generation(max(speeds, default=0.0))
    ports = [port for bus in buses for port in _ports_of(bus, generation)]
    own = {port.domain for port in ports if port.domain}
    # A cable between two ports of this machine leads to no peer.
    ports = [
        replace(port, peer="", peer_domain="", hops=0) if port.peer_domain in own else port
        for port in ports
    ]
    ports.sort(key=lambda port: port.name)
    return tuple(ports[:MAX_THUNDERBOLT_PORTS])


def product_name(text: str) -> str:
    """Returns the kind of Mac, like ``MacBook Pro``, from the same output; may be empty."""
    names = (str(bus.get("device_name_key") or "") for bus in _buses(text))
    return next((name for name in names if name), "")


def _buses(text: str) -> list[Content]:
    if text.lstrip().startswith("Thunderbolt"):
        return parse_text(text)
    # Frameworks that system_profiler loads may print a line of their own before.
    begin = text.find("{")
    content: Any = orjson.loads(text[begin:] if begin > 0 else text)
    buses = content.get("SPThunderboltDataType") if isinstance(content, dict) else None
    if not isinstance(buses, list):
        raise ValueError("the output lacks SPThunderboltDataType")
    return _objects(buses)


def _ports_of(bus: Content, generation: int) -> list[ThunderboltPort]:
    items, domain = _objects(bus.get("_items")), str(bus.get("domain_uuid_key") or "")
    receptacles = _receptacles(bus)
    connected = [key for key, tag in receptacles if _is_connected(tag)]
    ports: list[ThunderboltPort] = []
    for key, tag in receptacles:
        port = ThunderboltPort(
            f"port {tag.get('receptacle_id_key') or re.sub(r'[^0-9]', '', key)}",
            generation,
            domain=domain,
        )
        if key not in connected:
            ports.append(port)
            continue
        # A bus of USB4 has one receptacle; older ones have two, and as many items.
        here = items if len(connected) == 1 else items[connected.index(key) :][:1]
        ports += _entries(port, _speed(tag), here)
    return ports


def _entries(port: ThunderboltPort, gbps: float, items: list[Content]) -> list[ThunderboltPort]:
    """Returns an entry for each computer behind a connected port, or one for the port alone."""
    computers = list(_computers(items, 0))
    device = next((_name(item) for item in items if not _is_computer(item)), "")
    if not computers:
        computers = [({}, 0)]
    return [
        ThunderboltPort(
            port.name,
            port.generation,
            gbps,
            _name(computer) if computer else "",
            hops,
            device,
            port.domain,
            str(computer.get("domain_uuid_key") or ""),
        )
        for computer, hops in computers
    ]


def _computers(items: list[Content], hops: int) -> Iterable[tuple[Content, int]]:
    """Yields each computer, with the number of devices before it."""
    for item in items:
        if _is_computer(item):
            yield item, hops
        if hops < MAX_DEPTH:
            yield from _computers(_objects(item.get("_items")), hops + 1)


def _is_computer(item: Content) -> bool:
    return bool(item.get("domain_uuid_key") or item.get("services_title"))


def _is_connected(tag: Content) -> bool:
    status = str(tag.get("receptacle_status_key") or "").lower()
    return "connected" in status and "no_device" not in status and "no device" not in status


def _receptacles(content: Content) -> list[tuple[str, Content]]:
    return [
        (key, cast("Content", tag))
        for key, tag in sorted(content.items())
        if key.startswith("receptacle") and isinstance(tag, dict)
    ]


def _objects(value: Any) -> list[Content]:
    found = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("Content", item) for item in found if isinstance(item, dict)]


def _name(item: Content) -> str:
    return str(item.get("device_name_key") or item.get("_name") or "unknown")


def _speed(tag: Content) -> float:
    match = _SPEED.search(str(tag.get("current_speed_key") or ""))
    return float(match[1].replace(",", ".")) if match else 0.0


def _generation(gbps: float) -> int:
    """Returns the generation of a machine from the speed of its fastest port."""
    return next((generation for least, generation in _GENERATIONS if gbps >= least), 0)


def rdma_state(text: str) -> Rdma:
    """Parses ``rdma_ctl status``. A missing command counts as ``unsupported``."""
    output = text.lower().replace("not enabled", "disabled")
    if "not supported" in output or "unsupported" in output or "not found" in output:
        return "unsupported"
    if "disabled" in output:
        return "disabled"
    return "enabled" if "enabled" in output else "unknown"


def rdma_devices(text: str) -> tuple[str, ...]:
    """Parses device names from ``ibv_devices``: two header lines, then name and GUID."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and re.fullmatch(r"[0-9a-fA-F]{16}", words[1]):
            found.append(words[0])
    return tuple(found)
