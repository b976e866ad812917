"""What this machine is, asked of the operating system.

A probe that fails never stops the service: what cannot be told is said to be ``unknown``,
or 0 bytes or cores. The questions go through two narrow functions, one that runs a command
and one that reads a file, so that answers recorded elsewhere can be tested here.

Sources: ``man 3 sysctl`` and ``man 1 sw_vers`` of macOS; ``proc_cpuinfo(5)``,
``proc_meminfo(5)``, ``os-release(5)`` and the kernel's cgroup v2 document of Linux.
"""

from __future__ import annotations

import logging
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import psutil

from pomona.messages.discovery import Hardware

log = logging.getLogger(__name__)

Run = Callable[[list[str]], str]
Read = Callable[[str], str]
T = TypeVar("T")

GIB: Final = 1 << 30
MIB: Final = 1 << 20
UNKNOWN: Final = "unknown"
COMMAND_DEADLINE_S: Final = 5.0
SMALL_MAC_BYTES: Final = 36 * GIB

_SYSCTLS = ["machdep.cpu.brand_string", "hw.logicalcpu", "hw.memsize", "iogpu.wired_limit_mb"]


def detect_hardware() -> Hardware:
    """Ask the machine this runs on."""
    return mac_hardware(_run) if platform.system() == "Darwin" else linux_hardware(_read)


def mac_hardware(run: Run) -> Hardware:
    """A Mac, by ``sysctl`` and ``sw_vers``."""
    found = _try("sysctl", lambda: _colon_table(run(["/usr/sbin/sysctl", *_SYSCTLS])), {})
    memory = _try("hw.memsize", lambda: int(found["hw.memsize"]), 0)
    limit_mb = _try("iogpu.wired_limit_mb", lambda: int(found.get("iogpu.wired_limit_mb", "0")), 0)
    return Hardware(
        chip=found.get("machdep.cpu.brand_string", UNKNOWN),
        cores=_try("hw.logicalcpu", lambda: int(found["hw.logicalcpu"]), 0),
        memory_bytes=memory,
        usable_memory_bytes=mac_working_set(memory, limit_mb),
        os_name="macOS",
        os_version=_try(
            "sw_vers", lambda: run(["/usr/bin/sw_vers", "-productVersion"]).strip(), UNKNOWN
        ),
    )


def mac_working_set(memory_bytes: int, wired_limit_mb: int) -> int:
    """Bytes that Metal recommends to keep within, when Metal itself cannot be asked.

    An administrator's ``iogpu.wired_limit_mb`` holds when it is not 0. Else it is about two
    thirds of the memory up to 36 GiB and three quarters above; newer systems allow more,
    and the stage worker, which can ask Metal, says the exact figure in its own beacon.
    """
    if wired_limit_mb > 0:
        return min(wired_limit_mb * MIB, memory_bytes)
    if memory_bytes <= SMALL_MAC_BYTES:
        return memory_bytes * 2 // 3
    return memory_bytes * 3 // 4


def linux_hardware(read: Read) -> Hardware:
    """A Linux machine, by ``/proc``, ``/etc/os-release`` and its control group."""
    cpus = _try("/proc/cpuinfo", lambda: _colon_table(read("/proc/cpuinfo")), {})
    memory = _try("/proc/meminfo", lambda: _meminfo_total(read("/proc/meminfo")), 0)
    memory = memory or _try("psutil", lambda: psutil.virtual_memory().total, 0)
    limit = _cgroup_limit(read)
    return Hardware(
        chip=cpus.get("model name") or cpus.get("Model") or platform.machine() or UNKNOWN,
        cores=_try("cores", lambda: psutil.cpu_count(logical=True) or 0, 0),
        memory_bytes=memory,
        usable_memory_bytes=linux_usable(min(memory, limit) if limit else memory),
        os_name="Linux",
        os_version=_try("/etc/os-release", lambda: _release(read("/etc/os-release")), UNKNOWN),
    )


def linux_usable(memory_bytes: int) -> int:
    """All but a reserve for the system: an eighth, at least 1 GiB; never below nothing."""
    return max(0, memory_bytes - max(GIB, memory_bytes // 8))


def _colon_table(text: str) -> dict[str, str]:
    """Lines ``name: value``, the first of each name; other lines are passed over."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip():
            found.setdefault(name.strip(), value.strip())
    return found


def _meminfo_total(text: str) -> int:
    match = re.search(r"^MemTotal:\s+(\d+) kB$", text, re.MULTILINE)
    if match is None:
        raise ValueError("no line MemTotal in kB")
    return int(match[1]) * 1024


def _cgroup_limit(read: Read) -> int:
    """Bytes a control group leaves to this process; 0 when there is no limit."""
    try:
        text = read("/sys/fs/cgroup/memory.max").strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0


def _release(text: str) -> str:
    fields: Mapping[str, str] = {
        name: value.strip("\"'")
        for name, _, value in (line.partition("=") for line in text.splitlines())
    }
    return fields.get("PRETTY_NAME") or fields["ID"]


def _try(what: str, probe: Callable[[], T], fallback: T) -> T:
    try:
        return probe()
    except Exception as error:
        log.warning("%s of this machine is unknown: %s", what, error)
        return fallback


def _run(command: list[str]) -> str:
    """Standard output of a command, whatever its exit status: sysctl fails when one of
    several names is unknown, and answers the others."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False
    )
    return done.stdout


def _read(path: str) -> str:
    return Path(path).read_text(errors="replace")
