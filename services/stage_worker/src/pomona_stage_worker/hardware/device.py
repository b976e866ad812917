"""On what MLX computes here, and how much memory that has.

CUDA is read as MLX 0.32 documents its ``device_info``, and says it on an H100. The weights are
float32 there, as on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import psutil

Kind = Literal["metal", "cuda", "cpu"]
Info = Mapping[str, str | int]

CPU_SHARE = 0.75
"""Of the memory, for MLX, where it computes on the processor."""
CUDA_SHARE = 0.9
"""Of a card's memory; the rest is for kernels, libraries and what else uses the card."""


@dataclass(frozen=True, slots=True)
class Device:
    """Attributes: usable_bytes: for weights, caches and workspace."""

    kind: Kind
    name: str
    usable_bytes: int


def this_device() -> Device:
    import mlx.core as mx

    metal, cuda = mx.metal.is_available(), mx.cuda.is_available()
    return device_of("metal" if metal else "cuda" if cuda else "cpu", mx.device_info)


def device_of(kind: Kind, info: Callable[[], Info]) -> Device:
    """From what MLX tells of its default device. Raises KeyError when it lacks the memory."""
    said = info()
    name = str(said.get("device_name", kind))
    match kind:
        case "metal":
            return Device(kind, name, int(said["max_recommended_working_set_size"]))
        case "cuda":
            total = int(said["total_memory"])
            free = int(said.get("free_memory", total))
            return Device(kind, name, int(min(free, total * CUDA_SHARE)))
        case "cpu":
            return Device(kind, name, int(psutil.virtual_memory().total * CPU_SHARE))
