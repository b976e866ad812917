"""``python -m pomona_stage_worker.testing.emulated``: a stage worker that computes nothing.

Everything around the computation is real: bus, codec, scheduler, ops and cache tables. A
step holds its turn for a fixed time, whatever it carries; the tail draws made-up tokens.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from pomona.messages.cache_ops import Close, Open
from pomona.messages.codec import Buffer
from pomona.messages.control import Pipeline
from pomona.messages.pipeline import Step, Tensor
from pomona.models.store.remote_source import RemoteSource
from pomona.service import run_service
from pomona.settings import settings_or_exit
from pomona_stage_worker.compute_backend import ComputeBackend
from pomona_stage_worker.hardware.benchmark import Speed
from pomona_stage_worker.loading import Progress, StageWeights
from pomona_stage_worker.model.cache_table import CacheTable
from pomona_stage_worker.model.mlx_stage import Computation, Output, Stage
from pomona_stage_worker.model.warmup import NOT_TRIED
from pomona_stage_worker.sampling.sequence_state import SamplerOutput, SequenceSampler
from pomona_stage_worker.settings import StageWorkerSettings
from pomona_stage_worker.worker import StageWorker

LATE_S = 0.0001
"""How late sleeps are expected to end before any was seen; what is left is spent spinning."""
FIRST_TOKEN, TOKENS = 1000, 20000
"""Made-up tokens are of this range, where the default model has plain words."""


class EmulatedSettings(StageWorkerSettings):
    model_config = SettingsConfigDict(env_prefix="POMONA_STAGE_WORKER_")
    section: ClassVar[str] = "emulated"

    hold_ms: float = Field(default=10.0, ge=0, le=10000)
    """How long a step takes in this stage, milliseconds."""
    width: int = Field(default=576, ge=1, le=65536)
    """Numbers that cross to the next stage for each token, float32."""


class EmulatedStage:
    """Holds its turn. Its caches are empty lists, so ops cost what they cost without MLX."""

    can_batch = True
    can_slice = True
    trial = NOT_TRIED

    def __init__(self, hold_s: float, width: int, is_tail: bool) -> None:
        self._hold_s = hold_s
        self._width = width
        self._is_tail = is_tail
        self._late_s = LATE_S
        self._table = CacheTable(list[Any])
        self._drawings: dict[int, SequenceSampler] = {}
        sleep_exactly()

    def begin(
        self, step: Step, tensors: Sequence[Tensor], buffers: Sequence[Buffer]
    ) -> Computation:
        until = time.perf_counter() + self._hold_s
        for op in step.ops:
            self._table.apply(op)
            if self._is_tail and isinstance(op, Open):
                self._drawings[op.seq] = SequenceSampler.begin(op)
            elif isinstance(op, Close):
                self._drawings.pop(op.seq, None)
        if not step.rows:
            return Computation((), time.monotonic_ns(), Output)
        passed: tuple[Tensor, ...] = ()
        if self._is_tail:
            drawings = [self._drawings[seq] for seq in step.rows] if step.sample else []
            output = Output(results=tuple(d.accept(_made_up(d)) for d in drawings))
        else:
            rows, length = tensors[0].shape
            passed = (Tensor("float32", (rows, length, self._width)),)
            output = Output((bytes(4 * rows * length * self._width),))

        def finish() -> Output:
            self._hold(until)
            return output

        return Computation(passed, time.monotonic_ns(), finish, goes_on=True)

    def prepare(self) -> bool:
        return False

    def table(self) -> dict[str, Any]:
        return self._table.table()

    def cache_bytes(self) -> int:
        return 0

    def _hold(self, until: float) -> None:
        """Return at ``until``, neither early nor late, without spinning for long: the other
        stages need the processors."""
        wake_at = until - self._late_s
        left = wake_at - time.perf_counter()
        if left > 0:
            time.sleep(left)
            late = time.perf_counter() - wake_at
            # Settles where a quarter of the sleeps end earlier: others end late for want of a
            # processor, and to spin for those would want more of it.
            self._late_s += 2e-6 if late > self._late_s else -6e-6
        while time.perf_counter() < until:
            pass


def _made_up(drawing: SequenceSampler) -> SamplerOutput:
    return SamplerOutput(FIRST_TOKEN + (drawing.index * 7919 + drawing.opened.seq) % TOKENS)


def emulated_engine(settings: EmulatedSettings) -> ComputeBackend:
    def read(
        source: str,
        start: int,
        stop: int,
        progress: Progress,
        have: StageWeights | None,
        peers: Sequence[RemoteSource],
    ) -> StageWeights:
        def no_model() -> Any:
            raise NotImplementedError("an emulated stage has no model")

        return StageWeights(source, start, stop, no_model, {})

    def make(weights: StageWeights, pipeline: Pipeline) -> Stage:
        is_tail = weights.stop == pipeline.layer_count
        return EmulatedStage(settings.hold_ms / 1000, settings.width, is_tail)

    return ComputeBackend("emulated", lambda _: Speed(), read, make)


def sleep_exactly() -> None:
    """Have the kernel end sleeps when they are over, not up to 50 us later (Linux)."""
    if sys.platform == "linux":
        pr_set_timerslack = 29
        ctypes.CDLL(None).prctl(pr_set_timerslack, 1, 0, 0, 0)


def main() -> None:
    settings = settings_or_exit(EmulatedSettings)
    engine = emulated_engine(settings)
    run_service(settings.instance, settings, lambda stop: StageWorker(settings, engine).run(stop))


if __name__ == "__main__":
    main()
