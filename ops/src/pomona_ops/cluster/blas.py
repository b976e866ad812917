"""Selects the BLAS library and its threads for stage workers on a CPU.

The MLX wheel for Linux multiplies float32 matrices with the reference BLAS. The system's OpenBLAS
is several times faster; preloaded, it replaces the reference BLAS. On macOS, MLX uses Metal and
Accelerate, so nothing is changed there.
"""

from __future__ import annotations

import ctypes.util
import os
from pathlib import Path

from pomona import host

OPENBLAS_REMEDY = (
    "install it (Debian, Ubuntu: sudo apt install libopenblas0; Fedora: sudo dnf install "
    "openblas), then start the cluster again"
)
_PLACES = (
    ("/usr/lib", "*-linux-gnu/libopenblas.so.0"),
    ("/usr/lib64", "libopenblas*.so.0"),
    ("/usr/lib", "libopenblas.so*"),
    ("/usr/local/lib", "libopenblas.so*"),
)


def find_openblas() -> str | None:
    """Returns the path or loadable name of the system's OpenBLAS, if any; None on macOS."""
    if not host.is_linux():
        return None
    for folder, pattern in _PLACES:
        for found in sorted(Path(folder).glob(pattern)):
            return str(found)
    return ctypes.util.find_library("openblas")


def missing_openblas() -> str:
    """Says what the missing OpenBLAS costs; empty when it is there, or of no use."""
    if not host.is_linux() or find_openblas() is not None:
        return ""
    return (
        "this machine has no OpenBLAS: stage workers on the CPU are two to three times slower in "
        "writing and over ten times slower in reading a prompt"
    )


def blas_threads(count: int) -> dict[str, str]:
    """Environment variables that set the number of BLAS threads."""
    return {"OPENBLAS_NUM_THREADS": str(count), "OMP_NUM_THREADS": str(count)}


def stage_worker_environment(workers: int) -> dict[str, str]:
    """Environment variables for each of ``workers`` stage workers on this machine.

    The cores are divided among the workers as BLAS threads.
    """
    if not host.is_linux():
        return {}
    environment = blas_threads(max(1, len(host.cpu_affinity()) // workers))
    openblas = find_openblas()
    if openblas is not None:
        before = os.environ.get("LD_PRELOAD", "")
        environment["LD_PRELOAD"] = f"{openblas}:{before}" if before else openblas
    return environment
