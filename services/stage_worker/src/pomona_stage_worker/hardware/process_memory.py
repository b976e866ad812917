"""Memory of this process as macOS charges it, and as MLX's allocator counts it.

macOS ends processes by their physical footprint. Resident memory lacks a GPU's buffers, by as much
as 100 GB, and MLX's own count lacks what Metal and the process take besides.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import psutil

from pomona import host

RUSAGE_INFO_V0: Final = 0
"""Flavor of ``proc_pid_rusage`` in macOS's <sys/resource.h>."""
RUSAGE_INFO_V0_BYTES: Final = 96
PHYS_FOOTPRINT_OFFSET: Final = 72
"""Offset of ``ri_phys_footprint`` in ``struct rusage_info_v0``: a uuid of 16 bytes and seven
counters of 64 bits come first."""

ReadUsage = Callable[[int], bytes]
"""Returns a process's ``struct rusage_info_v0``; raises OSError."""


class Counters(Protocol):
    """The functions of ``mlx.core`` that are used here; bytes."""

    def get_active_memory(self) -> int: ...

    def get_cache_memory(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes of memory.

    Attributes:
        resident: resident memory.
        footprint: physical footprint; resident memory on Linux.
        active: arrays of MLX.
        cached: freed buffers that MLX's allocator keeps.
    """

    resident: int
    footprint: int
    active: int = 0
    cached: int = 0


def process_memory(
    counters: Counters | None = None, read_usage: ReadUsage | None = None
) -> ProcessMemory:
    """Returns the memory of this process.

    Args:
        counters: MLX, if it computes here.
        read_usage: how macOS is asked.
    """
    resident = psutil.Process().memory_info().rss
    active = cached = 0
    if counters is not None:
        active, cached = counters.get_active_memory(), counters.get_cache_memory()
    return ProcessMemory(resident, _footprint(read_usage) or resident, active, cached)


def _footprint(read_usage: ReadUsage | None) -> int:
    """Returns the physical footprint; 0 where there is none or it cannot be read."""
    if not host.is_mac():
        return 0
    try:
        usage = (read_usage or _read_usage)(os.getpid())
        (footprint,) = struct.unpack_from("=Q", usage, PHYS_FOOTPRINT_OFFSET)
    except (OSError, AttributeError, struct.error):
        return 0
    return int(footprint)


def _read_usage(pid: int) -> bytes:
    buffer = ctypes.create_string_buffer(RUSAGE_INFO_V0_BYTES)
    library = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    if library.proc_pid_rusage(pid, RUSAGE_INFO_V0, buffer) != 0:
        raise OSError(ctypes.get_errno(), "proc_pid_rusage")
    return buffer.raw
