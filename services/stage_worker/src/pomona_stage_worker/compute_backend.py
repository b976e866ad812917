"""The interface between the worker and whatever computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pomona.messages.control import Pipeline
from pomona.models.store.remote_source import RemoteSource
from pomona_stage_worker.hardware.benchmark import Speed
from pomona_stage_worker.hardware.gpu_warmth import GpuWarmth
from pomona_stage_worker.hardware.metal_memory import MetalMemory
from pomona_stage_worker.hardware.process_memory import ProcessMemory, process_memory
from pomona_stage_worker.loading import Progress, StageWeights
from pomona_stage_worker.model.mlx_stage import Stage
from pomona_stage_worker.speculation.draft import DraftSource

DraftReader: TypeAlias = Callable[[str, Sequence[RemoteSource]], StageWeights]


@dataclass(frozen=True, slots=True)
class ComputeBackend:
    """The implementation of the computation: MLX in production, an emulation in benchmarks.

    Attributes:
        device: name of the device in the beacon.
        measure: measures this machine's speed before anything is loaded, in the loader thread,
            and caches the result in the folder.
        read: reads a stage's weights into memory, in the loader thread.
        assemble: makes the stage, in the step thread.
        memory: limits of Metal's memory; None on other devices.
        draft_sources: sources of guesses in place of the usual ones, in benchmarks.
        process_memory: returns the memory that this process takes.
        warmth: keeps the GPU warm between requests; None on other devices.
        read_draft: reads a whole draft model into memory, in the loader thread; None where none
            can be run.
    """

    device: str
    measure: Callable[[Path], Speed]
    read: Callable[
        [str, int, int, Progress, StageWeights | None, Sequence[RemoteSource]], StageWeights
    ]
    assemble: Callable[[StageWeights, Pipeline], Stage]
    memory: MetalMemory | None = None
    draft_sources: tuple[DraftSource, ...] | None = None
    process_memory: Callable[[], ProcessMemory] = process_memory
    warmth: GpuWarmth | None = None
    read_draft: DraftReader | None = None

    def release_memory(self) -> None:
        """Returns the memory that MLX's allocator keeps, on Metal."""
        if self.memory is not None:
            self.memory.release()
