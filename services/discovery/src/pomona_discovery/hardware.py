"""Reads the fixed properties of this machine from the operating system.

A failed query never stops the service: its result is ``unknown``, or 0 bytes or cores. Queries go
through two functions, one that runs a command and one that reads a file, so that tests can replay
recorded output.

Sources: ``man 3 sysctl`` and ``man 1 sw_vers`` of macOS; ``proc_cpuinfo(5)``,
``proc_meminfo(5)``, ``os-release(5)`` and the kernel's cgroup v2 document of Linux.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import psutil

from pomona import host
from pomona.messages.discovery import Hardware
from pomona_discovery.mac_commands import run

log = logging.getLogger(__name__)

Run = Callable[[list[str]], str]
Read = Callable[[str], str]
T = TypeVar("T")

GIB: Final = 1 << 30
MIB: Final = 1 << 20
UNKNOWN: Final = "unknown"
SMALL_MAC_BYTES: Final = 36 * GIB

_SYSCTLS = ["machdep.cpu.brand_string", "hw.logicalcpu", "hw.memsize", "iogpu.wired_limit_mb"]


def detect_hardware() -> Hardware:
    """Reads the hardware of this machine."""
    return mac_hardware(run) if host.is_mac() else linux_hardware(_read)


def mac_hardware(run: Run) -> Hardware:
    """Reads a Mac's hardware from ``sysctl`` and ``sw_vers``."""
    found = value_or("sysctl", lambda: _parse_colon_lines(run(["sysctl", *_SYSCTLS])), {})
    memory = value_or("hw.memsize", lambda: int(found["hw.memsize"]), 0)
    limit_mb = value_or(
        "iogpu.wired_limit_mb", lambda: int(found.get("iogpu.wired_limit_mb", "0")), 0
    )
    return Hardware(
        chip=found.get("machdep.cpu.brand_string", UNKNOWN),
        cores=value_or("hw.logicalcpu", lambda: int(found["hw.logicalcpu"]), 0),
        memory_bytes=memory,
        usable_memory_bytes=mac_working_set(memory, limit_mb),
        os_name="macOS",
        os_version=value_or(
            "sw_vers", lambda: run(["sw_vers", "-productVersion"]).strip(), UNKNOWN
        ),
    )


def mac_working_set(memory_bytes: int, wired_limit_mb: int) -> int:
    """Estimates Metal's recommended working set in bytes, without Metal.

    Uses the administrator's ``iogpu.wired_limit_mb`` unless it is 0; else two thirds of the memory
    up to 36 GiB and three quarters above. Newer systems allow more. The stage worker, which can
    query Metal, states the exact figure in its own beacon.
    """
    if wired_limit_mb > 0:
        return min(wired_limit_mb * MIB, memory_bytes)
    if memory_bytes <= SMALL_MAC_BYTES:
        return memory_bytes * 2 // 3
    return memory_bytes * 3 // 4


def linux_hardware(read: Read) -> Hardware:
    """Reads a Linux machine's hardware from ``/proc``, ``/etc/os-release`` and its cgroup."""
    cpus = value_or("/proc/cpuinfo", lambda: _parse_colon_lines(read("/proc/cpuinfo")), {})
    memory = value_or("/proc/meminfo", lambda: _parse_memory_total(read("/proc/meminfo")), 0)
    memory = memory or value_or("psutil", lambda: psutil.virtual_memory().total, 0)
    limit = _cgroup_limit(read)
    return Hardware(
        chip=cpus.get("model name") or cpus.get("Model") or host.MACHINE or UNKNOWN,
        cores=value_or("cores", lambda: psutil.cpu_count(logical=True) or 0, 0),
        memory_bytes=memory,
        usable_memory_bytes=linux_usable_memory(min(memory, limit) if limit else memory),
        os_name="Linux",
        os_version=value_or(
            "/etc/os-release", lambda: _parse_os_release(read("/etc/os-release")), UNKNOWN
        ),
    )


def linux_usable_memory(memory_bytes: int) -> int:
    """Returns the memory less a reserve for the system: an eighth, at least 1 GiB."""
    return max(0, memory_bytes - max(GIB, memory_bytes // 8))


def _parse_colon_lines(text: str) -> dict[str, str]:
    """Parses lines ``name: value``. Keeps the first of each name and ignores other lines."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip():
            found.setdefault(name.strip(), value.strip())
    return found


def _parse_memory_total(text: str) -> int:
    match = re.search(r"^MemTotal:\s+(\d+) kB$", text, re.MULTILINE)
    if match is None:
        raise ValueError("/proc/meminfo lacks MemTotal in kB")
    return int(match[1]) * 1024


def _cgroup_limit(read: Read) -> int:
    """Returns the memory limit of this process's cgroup in bytes; 0 when there is none."""
    try:
        text = read("/sys/fs/cgroup/memory.max").strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0


def _parse_os_release(text: str) -> str:
    fields: Mapping[str, str] = {
        name: value.strip("\"'")
        for name, _, value in (line.partition("=") for line in text.splitlines())
    }
    return fields.get("PRETTY_NAME") or fields["ID"]


def value_or(what: str, query: Callable[[], T], fallback: T, level: int = logging.WARNING) -> T:
    """Runs a query of this machine. Logs a failure and returns the fallback."""
    try:
        return query()
    except Exception as error:
        log.log(level, "%s of this machine is unknown: %s", what, error)
        return fallback


def _read(path: str) -> str:
    return Path(path).read_text(errors="replace")
