"""What may change while a machine runs: ports, addresses, power, disk, settings.

Like :mod:`pomona_discovery.hardware`: a probe that fails leaves its fact empty. Sources:
``man 8 system_profiler``, ``man 1 pmset``, ``man 1 defaults``, ``man 8 networksetup`` of
macOS; macmon's README (``macmon pipe`` writes one JSON object a line); ``sysfs(5)`` and
psutil's manual on Linux.
"""

from __future__ import annotations

import ipaddress
import logging
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import orjson
import psutil

from pomona.messages.discovery import Interface, NodeFacts
from pomona_discovery.thunderbolt import rdma_devices, rdma_state, thunderbolt_ports

log = logging.getLogger(__name__)

Run = Callable[[list[str]], str]
T = TypeVar("T")
Updates = Literal["unknown", "on", "off"]

COMMAND_DEADLINE_S: Final = 10.0
MIB: Final = 1 << 20
MAX_INTERFACES: Final = 64


def collect_node_facts(state_dir: Path, now: float | None = None) -> NodeFacts:
    """Ask the machine this runs on. Args: now: Unix time; the clock's by default."""
    clock = time.time() if now is None else now
    disk = _try("disk", lambda: shutil.disk_usage(_existing(state_dir)), None)
    free, whole = (disk.free, disk.total) if disk is not None else (0, 0)
    if platform.system() == "Darwin":
        return mac_facts(_run, interfaces(mac_ports(_run)), free, whole, clock)
    return NodeFacts(
        model=_try("model", _linux_model, ""),
        rdma="unsupported",
        interfaces=interfaces({}),
        celsius=_try("temperature", _linux_celsius, 0.0),
        disk_free_bytes=free,
        disk_bytes=whole,
        clock_s=clock,
    )


def mac_facts(
    run: Run, found: tuple[Interface, ...], free: int, whole: int, clock: float
) -> NodeFacts:
    """A Mac, by what its commands answer."""
    watts, celsius = _try("macmon", lambda: macmon(run(["macmon", "pipe", "-s", "1"])), (0.0, 0.0))
    return NodeFacts(
        model=_try("model", lambda: run(["/usr/sbin/sysctl", "-n", "hw.model"]).strip(), ""),
        wired_limit_bytes=_try(
            "wired limit",
            lambda: int(run(["/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb"])) * MIB,
            0,
        ),
        thunderbolt=_try(
            "Thunderbolt",
            lambda: thunderbolt_ports(
                run(["/usr/sbin/system_profiler", "SPThunderboltDataType", "-json"])
            ),
            (),
        ),
        rdma=_try("RDMA", lambda: rdma_state(run(["/usr/bin/rdma_ctl", "status"])), "unsupported"),
        rdma_devices=_try("ibv_devices", lambda: rdma_devices(run(["/usr/bin/ibv_devices"])), ()),
        interfaces=found,
        watts=watts,
        celsius=celsius,
        disk_free_bytes=free,
        disk_bytes=whole,
        sleep_minutes=_try("pmset", lambda: sleep_minutes(run(["/usr/bin/pmset", "-g"])), -1),
        automatic_updates=_try(
            "automatic updates",
            lambda: automatic_updates(
                run(["/usr/bin/defaults", "read", "/Library/Preferences/com.apple.SoftwareUpdate"])
            ),
            "unknown",
        ),
        clock_s=clock,
    )


def hardware_overview(text: str) -> dict[str, str]:
    """Model, chip and memory in ``system_profiler SPHardwareDataType -json``.

    Raises ValueError when the text is no such answer.
    """
    content: Any = orjson.loads(text)
    try:
        entry: dict[str, Any] = content["SPHardwareDataType"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("no SPHardwareDataType in the answer") from error
    names = {
        "machine_model": "model",
        "machine_name": "name",
        "chip_type": "chip",
        "physical_memory": "memory",
        "number_processors": "cores",
    }
    return {said: str(entry[key]) for key, said in names.items() if key in entry}


def macmon(text: str) -> tuple[float, float]:
    """(watts of all, hottest of CPU and GPU in degrees) in the last line macmon wrote."""
    lines = [line for line in text.splitlines() if line.strip().startswith("{")]
    if not lines:
        raise ValueError("macmon wrote no measurement")
    measured: Any = orjson.loads(lines[-1])
    temperatures: dict[str, float] = measured.get("temp", {})
    watts = measured.get("sys_power") or measured.get("all_power") or 0.0
    return float(watts), max((float(x) for x in temperatures.values()), default=0.0)


def sleep_minutes(text: str) -> int:
    """From ``pmset -g``: minutes until the machine sleeps, 0 for never.

    Raises ValueError when it says nothing about sleep.
    """
    match = re.search(r"^\s*sleep\s+(\d+)", text, re.MULTILINE)
    if match is None:
        raise ValueError("pmset says nothing about sleep")
    return int(match[1])


def automatic_updates(text: str) -> Updates:
    """Whether macOS installs updates, and restarts, by itself: ``defaults read``."""
    match = re.search(r"AutomaticallyInstallMacOSUpdates\s*=\s*(\d)", text)
    return "unknown" if match is None else "on" if match[1] == "1" else "off"


def port_kinds(text: str) -> dict[str, str]:
    """Kind of each interface in ``networksetup -listallhardwareports``."""
    kinds: dict[str, str] = {}
    for port, device in re.findall(r"Hardware Port: (.+)\nDevice: (\S+)", text):
        kinds[device] = kind_named(port)
    return kinds


def kind_named(port: str) -> str:
    name = port.lower()
    if "thunderbolt" in name:
        return "thunderbolt"
    if "wi-fi" in name or "airport" in name:
        return "wifi"
    return "ethernet" if "ethernet" in name or "lan" in name else "other"


def mac_ports(run: Run) -> dict[str, str]:
    kinds = _try(
        "ports", lambda: port_kinds(run(["/usr/sbin/networksetup", "-listallhardwareports"])), {}
    )
    if "thunderbolt" in kinds.values():
        kinds.setdefault("bridge0", "thunderbolt")
    return kinds


def interfaces(kinds: dict[str, str]) -> tuple[Interface, ...]:
    """The interfaces that have an IPv4 address and are up."""

    def look() -> tuple[Interface, ...]:
        state = psutil.net_if_stats()
        found: list[Interface] = []
        for name, addresses in sorted(psutil.net_if_addrs().items()):
            speed = state[name].speed if name in state else 0
            for address in addresses:
                if address.family == socket.AF_INET and (name not in state or state[name].isup):
                    kind = kinds.get(name) or interface_kind(name)
                    found.append(Interface(name, kind, address.address, max(speed, 0)))
        return tuple(found[:MAX_INTERFACES])

    return _try("interfaces", look, ())


def in_own_network(address: str) -> bool:
    """Whether an IPv4 address of another machine lies in a network of this one."""

    def look() -> bool:
        other = ipaddress.IPv4Address(address)
        return any(
            own.netmask
            and other in ipaddress.IPv4Network(f"{own.address}/{own.netmask}", strict=False)
            for name, addresses in psutil.net_if_addrs().items()
            for own in addresses
            if own.family == socket.AF_INET and interface_kind(name) != "loopback"
        )

    try:
        return look()
    except (OSError, ValueError):
        return False


def interface_kind(name: str) -> str:
    """By the names that Linux gives."""
    if name.startswith("lo"):
        return "loopback"
    if name.startswith(("wl", "ath")):
        return "wifi"
    if name.startswith("thunderbolt"):
        return "thunderbolt"
    return "ethernet" if name.startswith(("en", "eth", "veth", "br", "bond")) else "other"


def _linux_model() -> str:
    return Path("/sys/devices/virtual/dmi/id/product_name").read_text().strip()


def _linux_celsius() -> float:
    if not hasattr(psutil, "sensors_temperatures"):
        return 0.0
    found = psutil.sensors_temperatures()
    return max((x.current for group in found.values() for x in group), default=0.0)


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _try(what: str, probe: Callable[[], T], fallback: T) -> T:
    try:
        return probe()
    except Exception as error:
        log.debug("%s of this machine is unknown: %s", what, error)
        return fallback


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False
    )
    return done.stdout or done.stderr
