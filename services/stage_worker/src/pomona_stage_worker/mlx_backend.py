"""The compute backend that runs in production: MLX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import mlx.core as mx
import psutil

from pomona.messages.control import Pipeline
from pomona.models import read_facts, resolve
from pomona.models.store.remote_source import RemoteSource
from pomona_stage_worker.compute_backend import ComputeBackend
from pomona_stage_worker.hardware.benchmark import (
    Speed,
    load_or_measure,
    measure_speed,
    signature,
)
from pomona_stage_worker.hardware.cpu_matrix_layout import keep_layouts_in
from pomona_stage_worker.hardware.device import this_device
from pomona_stage_worker.hardware.gpu_warmth import GpuWarmth, is_on_battery, tiny_product
from pomona_stage_worker.hardware.layout_file import LayoutFile
from pomona_stage_worker.hardware.metal_memory import MetalMemory
from pomona_stage_worker.hardware.process_memory import process_memory
from pomona_stage_worker.hardware.x86_kernels import use_on_x86
from pomona_stage_worker.loading import StageWeights, assemble, read_weights
from pomona_stage_worker.model.mlx_stage import MlxStage, Stage
from pomona_stage_worker.model.warmup import WarmupTiming, warm_up
from pomona_stage_worker.model.width_check import (
    CPU_CONTEXTS,
    CPU_WIDTH,
    GPU_CONTEXTS,
    GPU_WIDTH,
    exact_width,
)
from pomona_stage_worker.model.workspace import measure_workspace
from pomona_stage_worker.sampling.grammar_mask import GrammarCompiler
from pomona_stage_worker.slicing import StageModel

WARMUP_CHUNK = 512
"""Tokens of the chunk that warms a stage up, and whose workspace at the promised context counts."""
CPU_WARMUP_CHUNK = 16
"""Tokens of the warm-up chunk on a CPU, which compiles no kernels."""


def mlx_backend(
    *,
    stock_kernels: bool = False,
    wires_weights: bool = True,
    prefill_chunk: int = WARMUP_CHUNK,
    keep_warm_s: float = 300.0,
) -> ComputeBackend:
    """Creates the backend for this machine's device.

    Args:
        stock_kernels: on a CPU, use none of the replacements that hardware/README.md lists.
        wires_weights: on Metal, keep the weights wired.
        keep_warm_s: on Metal, how long after the last step the GPU is kept warm, seconds.
        prefill_chunk: tokens of the chunk that warms a stage up.
    """
    this = this_device()
    device = this.kind
    cpu_kernels = device == "cpu" and not stock_kernels
    if cpu_kernels:
        use_on_x86()

    warmed: WeakKeyDictionary[StageModel, tuple[tuple[int, int], tuple[WarmupTiming, int]]]
    warmed = WeakKeyDictionary()

    def warm(model: StageModel, pipeline: Pipeline) -> tuple[WarmupTiming, int]:
        chunk = prefill_chunk if device != "cpu" else min(prefill_chunk, CPU_WARMUP_CHUNK)
        context = min(pipeline.context_length, pipeline.cache_tokens) or chunk
        kind = (pipeline.cache_bits, context if device == "metal" else 0)
        known = warmed.get(model)
        if known is not None and known[0] == kind:
            return known[1]
        warmup = warm_up(model, chunk, pipeline.cache_bits)
        if device == "metal":
            workspace = measure_workspace(model, chunk, context, pipeline.cache_bits, mx)
            warmup = replace(warmup, workspace_bytes=workspace)
        width = 1
        if not pipeline.cache_bits:
            tried = (CPU_WIDTH, CPU_CONTEXTS) if device == "cpu" else (GPU_WIDTH, GPU_CONTEXTS)
            width = exact_width(model, *tried)
        warmed[model] = kind, (warmup, width)
        return warmup, width

    def make(weights: StageWeights, pipeline: Pipeline) -> Stage:
        model = assemble(weights)
        grammars = None
        if model.is_tail:
            grammars = GrammarCompiler(resolve(weights.source), pipeline.vocab_size)
        builds_beside = device != "cpu"
        warmup, width = warm(model, pipeline)
        return MlxStage(model, pipeline.cache_bits, grammars, warmup, builds_beside, width)

    def measure(folder: Path) -> Speed:
        measured_on = signature(this, cpu_kernels)
        if cpu_kernels:
            keep_layouts_in(LayoutFile(folder, measured_on))
        return load_or_measure(
            folder,
            measured_on,
            lambda: measure_speed(device == "metal", cpu_kernels),
        )

    read = partial(read_weights, cpu_layout=cpu_kernels)

    def read_draft(source: str, peers: Sequence[RemoteSource]) -> StageWeights:
        resolve(source, peers)  # fetches the small files, of which the facts are read
        layers = read_facts(source).layer_count
        return read(source, 0, layers, lambda done, total, fetching=False: None, None, peers)

    memory = warmth = None
    if device == "metal":
        total = psutil.virtual_memory().total
        memory = MetalMemory(mx, this.working_set_bytes, total, wires_weights)
        warmth = GpuWarmth(tiny_product, keep_warm_s, is_on_battery)
    return ComputeBackend(
        device,
        measure,
        read,
        make,
        memory,
        process_memory=partial(process_memory, mx),
        warmth=warmth,
        read_draft=read_draft,
    )
