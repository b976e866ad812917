"""Memory that Metal wires and that MLX's allocator keeps.

macOS unwires a GPU's buffers about a second after their last use, and wiring them again costs more
than a decode step. Only weights are wired: KV buffers that enter and leave the residency set have
panicked macOS (ml-explore/mlx 3186). Without a limit the allocator keeps freed buffers up to one
and a half times the working set.
"""

from __future__ import annotations

from typing import Final, Protocol

GIB: Final = 1 << 30
RESERVE_SHARE: Final = 0.05
"""Part of the working set that is never wired."""
LARGE_MACHINE_BYTES: Final = 64 * GIB


class Allocator(Protocol):
    """The functions of ``mlx.core`` that are used here; sizes in bytes."""

    def set_wired_limit(self, limit: int) -> int: ...

    def set_cache_limit(self, limit: int) -> int: ...

    def clear_cache(self) -> None: ...

    def synchronize(self) -> None: ...


class MetalMemory:
    """Limits of one process. Used by the step thread only.

    Args:
        allocator: MLX.
        working_set_bytes: what Metal recommends to use at most.
        memory_bytes: memory of the machine.
        wires: wire the weights.

    Attributes:
        wirable_bytes: most that is wired; 0 when ``wires`` is off.
        wired_bytes: bytes wired now.
    """

    def __init__(
        self, allocator: Allocator, working_set_bytes: int, memory_bytes: int, wires: bool = True
    ) -> None:
        self._allocator = allocator
        self.wirable_bytes = int(working_set_bytes * (1 - RESERVE_SHARE)) if wires else 0
        self.wired_bytes = 0
        allocator.set_cache_limit(2 * GIB if memory_bytes >= LARGE_MACHINE_BYTES else GIB)

    def set_weights(self, nbytes: int) -> None:
        """Wires the number of bytes of the loaded weights, at most the working set less a reserve.

        0 ends wiring.
        """
        wired = min(nbytes, self.wirable_bytes)
        if wired != self.wired_bytes:
            self._allocator.set_wired_limit(wired)
            self.wired_bytes = wired

    def release(self) -> None:
        """Returns freed buffers to the system, after the computations that may still use them."""
        self._allocator.synchronize()
        self._allocator.clear_cache()
