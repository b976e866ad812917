"""Reads properties of this machine that may change: ports, addresses, power, disk, settings.

A failed query leaves its fact empty, as in :mod:`pomona_discovery.hardware`.

Sources: ``man 8 system_profiler``, ``man 1 pmset`` and ``man 1 defaults`` of macOS; macmon's README
(``macmon pipe`` writes one JSON object per line); ``sysfs(5)`` and psutil's manual on Linux.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
import psutil

from pomona import host
from pomona.messages.discovery import NodeFacts
from pomona_discovery.hardware import Run, value_or
from pomona_discovery.mac_commands import run
from pomona_discovery.mac_settings import (
    automatic_updates,
    bridge_members,
    file_vault,
    firewall,
    restarts_after_power_failure,
    sleep_minutes,
)
from pomona_discovery.own_addresses import current_interfaces
from pomona_discovery.thunderbolt import (
    product_name,
    rdma_devices,
    rdma_state,
    thunderbolt_ports,
)

T = TypeVar("T")

MIB: Final = 1 << 20


def collect_node_facts(
    state_dir: Path, now: float | None = None, with_macmon: bool = True
) -> NodeFacts:
    """Reads the facts of this machine. On a Mac this takes seconds.

    Args:
        now: Unix time, by default of the system clock.
        with_macmon: read power and temperature of a Mac, if macmon is installed.
    """
    clock = time.time() if now is None else now
    disk = _query("disk", lambda: shutil.disk_usage(_existing_parent(state_dir)), None)
    free, total = (disk.free, disk.total) if disk is not None else (0, 0)
    if host.is_mac():
        facts = mac_facts(run, with_macmon)
    else:
        facts = NodeFacts(
            model=_query("model", _read_linux_model, ""),
            rdma="unsupported",
            celsius=_query("temperature", _read_linux_celsius, 0.0),
        )
    return replace(
        facts,
        interfaces=current_interfaces(),
        disk_free_bytes=free,
        disk_bytes=total,
        clock_s=clock,
    )


def mac_facts(run: Run, with_macmon: bool = True) -> NodeFacts:
    """Reads a Mac's facts from its commands. ``run`` runs one and returns its output."""

    def parsed(what: str, command: str, parse: Callable[[str], T], fallback: T) -> T:
        return _query(what, lambda: parse(run(command.split())), fallback)

    watts, celsius = 0.0, 0.0
    if with_macmon:
        watts, celsius = parsed("macmon", "macmon pipe -s 1", parse_macmon, (0.0, 0.0))
    thunderbolt = parsed("Thunderbolt", "system_profiler SPThunderboltDataType -json", str, "")
    power = parsed("pmset", "pmset -g", str, "")
    return NodeFacts(
        model=parsed("model", "sysctl -n hw.model", str.strip, ""),
        product=_query("product", lambda: product_name(thunderbolt), ""),
        wired_limit_bytes=parsed(
            "wired limit", "sysctl -n iogpu.wired_limit_mb", lambda text: int(text) * MIB, 0
        ),
        thunderbolt=_query("Thunderbolt", lambda: thunderbolt_ports(thunderbolt), ()),
        bridge_members=parsed("bridge", "ifconfig bridge0", bridge_members, ()),
        rdma=parsed("RDMA", "rdma_ctl status", rdma_state, "unsupported"),
        rdma_devices=parsed("ibv_devices", "ibv_devices", rdma_devices, ()),
        watts=watts,
        celsius=celsius,
        sleep_minutes=_query("sleep", lambda: sleep_minutes(power), -1),
        restarts_after_power_failure=restarts_after_power_failure(power),
        automatic_updates=parsed(
            "automatic updates",
            "defaults read /Library/Preferences/com.apple.SoftwareUpdate",
            automatic_updates,
            "unknown",
        ),
        file_vault=parsed("FileVault", "fdesetup status", file_vault, "unknown"),
        firewall=parsed("firewall", "socketfilterfw --getglobalstate", firewall, "unknown"),
    )


def parse_macmon(text: str) -> tuple[float, float]:
    """Parses the last line of ``macmon pipe``.

    Returns:
        Power of the system in watts, and the higher of CPU and GPU temperature in °C.
    """
    lines = [line for line in text.splitlines() if line.strip().startswith("{")]
    if not lines:
        raise ValueError("macmon wrote no measurement")
    measured: Any = orjson.loads(lines[-1])
    temperatures: Any = measured.get("temp")
    found = temperatures.values() if isinstance(temperatures, dict) else ()
    watts = (_number(measured.get(name)) for name in ("sys_power", "all_power"))
    return next(filter(None, watts), 0.0), max(map(_number, found), default=0.0)


def _number(value: Any) -> float:
    """Returns a measured value, 0 for one that is missing or is no number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and isfinite(value) else 0.0


def _read_linux_model() -> str:
    return Path("/sys/devices/virtual/dmi/id/product_name").read_text().strip()


def _read_linux_celsius() -> float:
    # psutil has no such function on other systems.
    found: dict[str, list[Any]] = getattr(psutil, "sensors_temperatures", dict)()
    return max((float(x.current) for group in found.values() for x in group), default=0.0)


def _existing_parent(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _query(what: str, query: Callable[[], T], fallback: T) -> T:
    return value_or(what, query, fallback, logging.DEBUG)
