"""Settings of a stage worker: ``POMONA_STAGE_WORKER_*``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from pomona.settings import ServiceSettings

MIN_PREFILL_CHUNK = 8


class StageWorkerSettings(ServiceSettings):
    """Settings of one stage worker."""

    model_config = SettingsConfigDict(env_prefix="POMONA_STAGE_WORKER_")
    section: ClassVar[str] = "stage_worker"

    name: str = Field(default="", max_length=64)
    """Name of this worker in the cluster. Default: ``<node>.stage_worker``."""
    data_port: int = Field(default=0, ge=0, le=65535)
    """Port of the data socket; 0 takes a free one. The beacon has its address."""
    files_port: int = Field(default=0, ge=0, le=65535)
    """Port on which other nodes fetch model files; 0 takes a free one. The beacon has its
    address."""
    model_folders: tuple[Path, ...] = ()
    """Folders with models that planners of other machines may name, as a JSON list. Of models
    elsewhere on this machine a copy is fetched."""
    memory_bytes: int = Field(default=0, ge=0)
    """Most memory for weights and caches, bytes; 0 takes what the machine allows."""
    link_deadline_s: float = Field(default=3.0, gt=0, le=60)
    """Seconds for the next stage to take a message. After that the epoch fails."""
    max_waiting: int = Field(default=256, ge=0, le=65536)
    """Requests that may wait at the head. Beyond it, the last in line is rejected with 429."""
    max_running: int = Field(default=64, ge=1, le=4096)
    """Requests that may be prefilled or generate at once."""
    prefill_chunk: int = Field(default=0, ge=0, le=16384)
    """Most tokens of a prefill chunk, from 8; 0 takes 512 on a CPU and up to 2048 on a GPU, as
    measured times suggest."""
    pace: float = Field(default=0.7, gt=0, le=10)
    """Fraction by which running streams may slow down beside a prefill; 0.7 is 70%."""
    speculation: bool = True
    """Guess tokens in advance while stages would be idle. Replies are the same without."""
    deterministic: bool = False
    """Compute a reply in steps of the same shapes whatever runs beside it, and again after a
    fault: one sequence a lane, and chunks of fixed sizes. Slower with several users."""
    trace_dir: Path | None = None
    """Folder for a trace of the times of every step, for ``pomona bench trace``."""

    wired_weights: bool = True
    """On Metal, keep the weights wired while they are loaded."""
    keep_warm_s: float = Field(default=300.0, ge=0, le=86400)
    """On Metal, how long after the last step the GPU is kept warm, seconds; 0 never. On battery
    it is not."""
    stock_kernels: bool = False
    """Compute with MLX's own kernels only, as a Mac does; for benchmarks on a CPU."""

    group: int = Field(default=1, ge=1, le=8)
    """Rank processes on this machine that hold each stage together, over mlx's ring; 1 computes in
    the worker itself. A stage fails, with the reason, if its model cannot be split so."""

    @field_validator("prefill_chunk")
    @classmethod
    def _is_automatic_or_enough(cls, value: int) -> int:
        if 0 < value < MIN_PREFILL_CHUNK:
            raise ValueError(f"must be 0 or at least {MIN_PREFILL_CHUNK}")
        return value

    @property
    def instance(self) -> str:
        return self.name or f"{self.node}.stage_worker"

    def usable_memory(self) -> int:
        """Returns the bytes for weights and caches."""
        if self.memory_bytes:
            return self.memory_bytes
        from pomona_stage_worker.hardware.device import this_device

        return this_device().usable_bytes
