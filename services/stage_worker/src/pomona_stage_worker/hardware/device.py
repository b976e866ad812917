"""The device that MLX computes on, and its memory.

CUDA is supported as MLX 0.32 documents its ``device_info``. Weights are float32 there, as on a
CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import psutil

Kind = Literal["metal", "cuda", "cpu"]
Info = Mapping[str, str | int]

METAL_SHARE = 0.95
"""Usable share of Metal's recommended working set; the rest stays free."""
CPU_SHARE = 0.75
"""Usable share of system memory on a CPU."""
CUDA_SHARE = 0.9
"""Usable share of a CUDA card's memory; kernels, libraries and other processes need the rest."""


@dataclass(frozen=True, slots=True)
class Device:
    """A compute device.

    Attributes:
        usable_bytes: memory for weights, caches and workspace.
        working_set_bytes: what Metal recommends to use at most; 0 on other devices.
    """

    kind: Kind
    name: str
    usable_bytes: int
    working_set_bytes: int = 0


def this_device() -> Device:
    """Returns MLX's default device on this machine."""
    import mlx.core as mx

    metal, cuda = mx.metal.is_available(), mx.cuda.is_available()
    return device_of("metal" if metal else "cuda" if cuda else "cpu", mx.device_info)


def device_of(kind: Kind, device_info: Callable[[], Info]) -> Device:
    """Reads MLX's device info. Raises KeyError if it lacks the memory size."""
    info = device_info()
    name = str(info.get("device_name", kind))
    match kind:
        case "metal":
            working_set = int(info["max_recommended_working_set_size"])
            return Device(kind, name, int(working_set * METAL_SHARE), working_set)
        case "cuda":
            total = int(info["total_memory"])
            free = int(info.get("free_memory", total))
            return Device(kind, name, int(min(free, total * CUDA_SHARE)))
        case "cpu":
            return Device(kind, name, int(psutil.virtual_memory().total * CPU_SHARE))
