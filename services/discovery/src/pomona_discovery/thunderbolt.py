"""Parses the output of a Mac's commands about Thunderbolt and RDMA.

Sources: ``man 8 system_profiler``; the keys of ``SPThunderboltDataType`` as macOS writes
them (``receptacle_1_tag`` holds ``current_speed_key``, ``link_status_key`` and the
receptacle's id; connected devices are nested under ``_items``); Apple's technical note on
RDMA over Thunderbolt (``rdma_ctl``, macOS 26.2) and ``man 1 ibv_devices``.
"""

from __future__ import annotations

import re
from typing import Any, Literal, cast

import orjson

from pomona.messages.discovery import ThunderboltPort

Rdma = Literal["unknown", "unsupported", "disabled", "enabled"]

MAX_HOPS = 8
_SPEED = re.compile(r"(\d+(?:\.\d+)?)\s*Gb/s", re.IGNORECASE)
_GENERATIONS = ((79, 5), (39, 4), (19, 3))
"""Minimum nominal Gb/s and generation. Thunderbolt 3 and 4 have the same speed."""


def thunderbolt_ports(text: str) -> tuple[ThunderboltPort, ...]:
    """Parses the ports from ``system_profiler SPThunderboltDataType -json``.

    Raises ValueError when the text is not valid output.
    """
    content: Any = orjson.loads(text)
    buses = content.get("SPThunderboltDataType") if isinstance(content, dict) else None
    if not isinstance(buses, list):
        raise ValueError("the output lacks SPThunderboltDataType")
    ports: list[ThunderboltPort] = []
    for bus in cast("list[Any]", buses):
        if isinstance(bus, dict):
            ports += _ports_of(cast("dict[str, Any]", bus))
    return tuple(ports)


def _ports_of(bus: dict[str, Any]) -> list[ThunderboltPort]:
    tags = {k: v for k, v in bus.items() if k.startswith("receptacle") and isinstance(v, dict)}
    generation = _generation(str(bus.get("device_name_key", "")), tags)
    peers = [_chain(item) for item in _items(bus)]
    ports: list[ThunderboltPort] = []
    for key, tag in sorted(tags.items()):
        status = str(tag.get("receptacle_status_key", ""))
        connected = "no_device" not in status and bool(peers)
        peer, hops = peers.pop(0) if connected else ("", 0)
        number = tag.get("receptacle_id_key") or re.sub(r"\D", "", key)
        ports.append(
            ThunderboltPort(
                f"port {number}",
                generation,
                _gbps(str(tag.get("current_speed_key", ""))) if connected else 0.0,
                peer,
                hops,
            )
        )
    return ports


def _items(bus: dict[str, Any]) -> list[dict[str, Any]]:
    items = bus.get("_items")
    found = cast("list[Any]", items) if isinstance(items, list) else []
    return [cast("dict[str, Any]", item) for item in found if isinstance(item, dict)]


def _chain(item: dict[str, Any]) -> tuple[str, int]:
    """Returns the last machine of a chain of devices, and the number of devices before it."""
    hops = 0
    while (below := _items(item)) and hops < MAX_HOPS:
        item, hops = below[0], hops + 1
    return str(item.get("device_name_key") or item.get("_name") or "unknown"), hops


def _gbps(text: str) -> float:
    match = _SPEED.search(text)
    return float(match[1]) if match else 0.0


def _generation(name: str, tags: dict[str, Any]) -> int:
    """Returns the generation from the bus's name, else from the fastest speed of its ports."""
    if match := re.search(r"thunderbolt[^0-9]{0,5}([345])", name, re.IGNORECASE):
        return int(match[1])
    fastest = max(
        (_gbps(str(tag.get("current_speed_key", ""))) for tag in tags.values()), default=0
    )
    return next((generation for least, generation in _GENERATIONS if fastest >= least), 0)


def rdma_state(text: str) -> Rdma:
    """Parses ``rdma_ctl status``. A missing command counts as ``unsupported``."""
    output = text.lower()
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
