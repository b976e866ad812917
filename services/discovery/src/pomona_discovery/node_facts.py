"""Reads properties of this machine that may change: ports, addresses, power, disk, settings.

A failed query leaves its fact empty, as in :mod:`pomona_discovery.hardware`.

Sources: ``man 8 system_profiler``, ``man 1 pmset`` and ``man 1 defaults`` of macOS; macmon's README
(``macmon pipe`` writes one JSON object per line); ``sysfs(5)`` and psutil's manual on Linux.
"""

from __future__ import annotations

import logging
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import orjson
import psutil

from pomona.messages.discovery import Interface, NodeFacts
from pomona_discovery.hardware import Run, value_or
from pomona_discovery.own_addresses import interfaces, mac_interface_kinds
from pomona_discovery.thunderbolt import rdma_devices, rdma_state, thunderbolt_ports

T = TypeVar("T")
Updates = Literal["unknown", "on", "off"]

COMMAND_DEADLINE_S: Final = 10.0
MIB: Final = 1 << 20


def collect_node_facts(state_dir: Path, now: float | None = None) -> NodeFacts:
    """Reads the facts of this machine. ``now`` is Unix time, by default of the system clock."""
    clock = time.time() if now is None else now
    disk = _query("disk", lambda: shutil.disk_usage(_existing_parent(state_dir)), None)
    free, total = (disk.free, disk.total) if disk is not None else (0, 0)
    if platform.system() == "Darwin":
        return mac_facts(_run, interfaces(mac_interface_kinds(_run)), free, total, clock)
    return NodeFacts(
        model=_query("model", _read_linux_model, ""),
        rdma="unsupported",
        interfaces=interfaces({}),
        celsius=_query("temperature", _read_linux_celsius, 0.0),
        disk_free_bytes=free,
        disk_bytes=total,
        clock_s=clock,
    )


def mac_facts(
    run: Run, found: tuple[Interface, ...], free: int, total: int, clock: float
) -> NodeFacts:
    """Reads a Mac's facts from its commands.

    Args:
        run: runs a command and returns its output.
        found: interfaces of the machine.
        free, total: free space and size of the disk, bytes.
        clock: Unix time.
    """
    watts, celsius = _query(
        "macmon", lambda: parse_macmon(run(["macmon", "pipe", "-s", "1"])), (0.0, 0.0)
    )
    return NodeFacts(
        model=_query("model", lambda: run(["/usr/sbin/sysctl", "-n", "hw.model"]).strip(), ""),
        wired_limit_bytes=_query(
            "wired limit",
            lambda: int(run(["/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb"])) * MIB,
            0,
        ),
        thunderbolt=_query(
            "Thunderbolt",
            lambda: thunderbolt_ports(
                run(["/usr/sbin/system_profiler", "SPThunderboltDataType", "-json"])
            ),
            (),
        ),
        rdma=_query(
            "RDMA", lambda: rdma_state(run(["/usr/bin/rdma_ctl", "status"])), "unsupported"
        ),
        rdma_devices=_query("ibv_devices", lambda: rdma_devices(run(["/usr/bin/ibv_devices"])), ()),
        interfaces=found,
        watts=watts,
        celsius=celsius,
        disk_free_bytes=free,
        disk_bytes=total,
        sleep_minutes=_query("pmset", lambda: sleep_minutes(run(["/usr/bin/pmset", "-g"])), -1),
        automatic_updates=_query(
            "automatic updates",
            lambda: automatic_updates(
                run(["/usr/bin/defaults", "read", "/Library/Preferences/com.apple.SoftwareUpdate"])
            ),
            "unknown",
        ),
        clock_s=clock,
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
    temperatures: dict[str, float] = measured.get("temp", {})
    watts = measured.get("sys_power") or measured.get("all_power") or 0.0
    return float(watts), max((float(x) for x in temperatures.values()), default=0.0)


def sleep_minutes(text: str) -> int:
    """Parses ``pmset -g``: idle minutes until the machine sleeps, 0 for never.

    Raises ValueError when the output has no sleep setting.
    """
    match = re.search(r"^\s*sleep\s+(\d+)", text, re.MULTILINE)
    if match is None:
        raise ValueError("pmset printed no sleep setting")
    return int(match[1])


def automatic_updates(text: str) -> Updates:
    """Parses ``defaults read``: whether macOS installs updates, and restarts, by itself."""
    match = re.search(r"AutomaticallyInstallMacOSUpdates\s*=\s*(\d)", text)
    return "unknown" if match is None else "on" if match[1] == "1" else "off"


def _read_linux_model() -> str:
    return Path("/sys/devices/virtual/dmi/id/product_name").read_text().strip()


def _read_linux_celsius() -> float:
    if not hasattr(psutil, "sensors_temperatures"):
        return 0.0
    found = psutil.sensors_temperatures()
    return max((x.current for group in found.values() for x in group), default=0.0)


def _existing_parent(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False
    )
    return done.stdout or done.stderr


def _query(what: str, query: Callable[[], T], fallback: T) -> T:
    return value_or(what, query, fallback, logging.DEBUG)
