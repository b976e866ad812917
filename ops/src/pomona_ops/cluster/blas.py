"""A faster BLAS for stage workers on a CPU.

The MLX wheel for Linux multiplies float32 matrices with a reference BLAS. The system's
OpenBLAS, when it is installed and loaded first, takes its place and is several times faster.
On macOS MLX uses Metal and Accelerate, and nothing is done.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from pathlib import Path

_PLACES = (
    ("/usr/lib", "*-linux-gnu/libopenblas.so.0"),
    ("/usr/lib64", "libopenblas*.so.0"),
    ("/usr/lib", "libopenblas.so*"),
    ("/usr/local/lib", "libopenblas.so*"),
)


def find_openblas() -> str | None:
    """Path or loadable name of the system's OpenBLAS; None without one, and on macOS."""
    if sys.platform != "linux":
        return None
    for folder, pattern in _PLACES:
        for found in sorted(Path(folder).glob(pattern)):
            return str(found)
    return ctypes.util.find_library("openblas")


def blas_threads(count: int) -> dict[str, str]:
    """Variables with which a process uses so many threads for its matrices."""
    return {"OPENBLAS_NUM_THREADS": str(count), "OMP_NUM_THREADS": str(count)}


def stage_worker_environment(workers: int) -> dict[str, str]:
    """Variables with which each of ``workers`` stage workers of this machine is started.

    They share its cores: each gets its part of them as BLAS threads.
    """
    if sys.platform != "linux":
        return {}
    environment = blas_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    openblas = find_openblas()
    if openblas is not None:
        before = os.environ.get("LD_PRELOAD", "")
        environment["LD_PRELOAD"] = f"{openblas}:{before}" if before else openblas
    return environment
