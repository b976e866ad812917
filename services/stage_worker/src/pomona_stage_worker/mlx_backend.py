"""The production backend: MLX on this machine's device."""

from __future__ import annotations

from pathlib import Path

from pomona.messages.control import Pipeline
from pomona.models import resolve
from pomona_stage_worker.compute_backend import ComputeBackend
from pomona_stage_worker.hardware.benchmark import Speed, known_speed, measure_speed, signature
from pomona_stage_worker.hardware.cpu_threads import begin_compute_thread
from pomona_stage_worker.hardware.device import this_device
from pomona_stage_worker.hardware.x86_kernels import use_on_x86
from pomona_stage_worker.loading import StageWeights, assemble, read_weights
from pomona_stage_worker.model.mlx_stage import MlxStage, Stage
from pomona_stage_worker.model.warmup import try_steps
from pomona_stage_worker.sampling.grammar_mask import Grammars


def mlx_backend() -> ComputeBackend:
    """Returns the backend for this machine. On an x86 processor it replaces some MLX kernels."""
    device = this_device().kind
    if device == "cpu":
        use_on_x86()

    def assemble_stage(weights: StageWeights, pipeline: Pipeline) -> Stage:
        if device == "cpu":
            begin_compute_thread()
        model = assemble(weights)
        grammars = None
        if model.is_tail:
            grammars = Grammars(resolve(weights.source), pipeline.vocab_size)
        builds_beside = device != "cpu"
        return MlxStage(model, pipeline.cache_bits, grammars, try_steps(model), builds_beside)

    def measure(folder: Path) -> Speed:
        return known_speed(folder, signature(device), lambda: measure_speed(device == "metal"))

    return ComputeBackend(device, measure, read_weights, assemble_stage)
