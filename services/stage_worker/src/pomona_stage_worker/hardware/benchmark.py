"""Measures the speed of this machine once, through MLX, and stores it in the state folder.

The planner predicts from three figures: weight bytes read per second, floating-point operations
per second in matrix products, and the time of a layer's small kernels. They are measured again
when the chip, the device, MLX or its environment changes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from pomona import host
from pomona_stage_worker.hardware.device import Device

log = logging.getLogger(__name__)

METHOD = "7"
"""Version of the benchmark. Figures of another version are measured again."""
REPEATS = 5
READ_BYTES = 64 << 20
"""Bytes of weights per reading on a CPU: more than most processors' caches hold."""
METAL_READ_BYTES = 512 << 20
"""Bytes of weights per reading on Metal: more than any chip's caches hold."""
METAL_PRODUCTS = 4
"""Products per evaluation on Metal, so that the round trip to the GPU weighs little."""
METAL_WARMUP_S = 0.2
"""Time of untimed evaluations before each measurement: a GPU raises its clock in this time."""
PRODUCT = 1024
"""Outer dimension of the matrix product on a CPU; four times that on Metal."""
KERNELS_WIDTH = 512
KERNELS_LAYERS = 8


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed of a machine; zeros before it was measured.

    Attributes:
        memory_bandwidth: bytes of weights per second, read as decode reads them.
        matrix_flops: floating-point operations per second in products of large matrices.
        layer_us: small kernels of one layer, microseconds.
        mlx_version: version of MLX that was measured.
        measured_on: the signature of machine and environment.
    """

    memory_bandwidth: float = 0.0
    matrix_flops: float = 0.0
    layer_us: float = 0.0
    mlx_version: str = ""
    measured_on: str = ""


_SPEED = TypeAdapter(Speed)


def load_or_measure(folder: Path, measured_on: str, measure: Callable[[], Speed]) -> Speed:
    """Returns the stored figures for this signature, or measures and stores them.

    Workers of one machine take turns, because parallel benchmarks would slow each other. Returns
    zeros if the folder cannot be used.
    """
    path = folder / "speed.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "speed.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stored = _read(path)
            if stored is not None and stored.measured_on == measured_on:
                return stored
            measured = replace(measure(), measured_on=measured_on)
            path.write_bytes(orjson.dumps(measured))
            log.info(
                "measured: %.1f GB/s, %.2f TFLOP/s, %.0f us a layer of kernels",
                measured.memory_bandwidth / 1e9,
                measured.matrix_flops / 1e12,
                measured.layer_us,
            )
            return measured
    except OSError as error:
        log.warning("the machine's speed cannot be stored in %s: %s", folder, error)
        return Speed()


def _read(path: Path) -> Speed | None:
    try:
        return _SPEED.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s cannot be read, measuring again: %s", path, type(error).__name__)
        return None


def signature(device: Device, cpu_kernels: bool) -> str:
    """Returns everything that the figures depend on, as one string.

    A GPU is named as MLX names it: a state folder that moves to another chip is measured again.
    """
    is_cpu = device.kind == "cpu"
    chip = (platform.processor() or host.MACHINE) if is_cpu else device.name
    names = ("OPENBLAS_NUM_THREADS", "LD_PRELOAD", "OPENBLAS_CORETYPE")
    blas = [os.environ.get(name, "") for name in names]
    kernels = ["stock"] if is_cpu and not cpu_kernels else []
    return " ".join([METHOD, chip, device.kind, version("mlx"), *blas, *kernels])


def measure_speed(on_metal: bool, cpu_kernels: bool) -> Speed:
    """Runs the benchmark in about a second: 4-bit weights on Metal, float32 elsewhere.

    Args:
        cpu_kernels: read weights in the fastest layout, as a stage on a CPU does.
    """
    import mlx.core as mx

    with mx.stream(mx.new_stream(mx.default_device())):
        return Speed(
            memory_bandwidth=quantized_bandwidth() if on_metal else _float32_bandwidth(cpu_kernels),
            matrix_flops=_matrix_flops(on_metal),
            layer_us=_kernel_seconds(on_metal) * 1e6,
            mlx_version=version("mlx"),
        )


def best_seconds(run: Callable[[], None], warmup_s: float = 0.0) -> float:
    """Times the fastest of several runs, since other load only makes a run slower.

    Args:
        warmup_s: time of untimed runs before, at least one, seconds.
    """
    warm_at = time.perf_counter() + warmup_s
    run()
    while time.perf_counter() < warm_at:
        run()
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


def quantized_bandwidth(read_bytes: int = METAL_READ_BYTES) -> float:
    """Measures the bytes of 4-bit weights read per second, as decode reads them.

    Args:
        read_bytes: bytes per reading, over several matrices.
    """
    import mlx.core as mx

    width = 2048
    x = mx.ones((1, width), dtype=mx.float16)
    rows = read_bytes // METAL_PRODUCTS * 2 // width
    matrices: list[tuple[mx.array, ...]] = []
    for _ in range(METAL_PRODUCTS):
        matrix = mx.random.normal((rows, width), dtype=mx.float16)
        weights, scales, biases = mx.quantize(matrix, group_size=64, bits=4)
        mx.eval(weights, scales, biases)
        matrices.append((weights, scales, biases))
    size = sum(array.nbytes for arrays in matrices for array in arrays)

    def run() -> None:
        mx.eval([mx.quantized_matmul(x, w, s, b, group_size=64, bits=4) for w, s, b in matrices])

    return size / best_seconds(run, METAL_WARMUP_S)


def _float32_bandwidth(cpu_kernels: bool) -> float:
    import mlx.core as mx

    from pomona_stage_worker.hardware.cpu_matrix_layout import as_stored, layouts, product_seconds

    width = 2048
    matrix = mx.random.normal((READ_BYTES // 4 // width, width))
    candidates = layouts(matrix, may_block=True) if cpu_kernels else [as_stored]
    return matrix.nbytes / min(product_seconds(layout, matrix) for layout in candidates)


def _matrix_flops(on_metal: bool) -> float:
    import mlx.core as mx

    size = PRODUCT * (4 if on_metal else 1)
    dtype = mx.float16 if on_metal else mx.float32
    a = mx.random.normal((size // 2, size)).astype(dtype)
    b = mx.random.normal((size, size)).astype(dtype)
    mx.eval(a, b)
    count = METAL_PRODUCTS if on_metal else 1
    seconds = best_seconds(
        lambda: mx.eval([a @ b for _ in range(count)]), METAL_WARMUP_S if on_metal else 0.0
    )
    return count * size * size * size / seconds


def _kernel_seconds(on_metal: bool) -> float:
    """Times the kernels of a layer that read no weights: norms, RoPE, attention, activation."""
    import mlx.core as mx

    dtype = mx.float16 if on_metal else mx.float32
    heads, size = 8, KERNELS_WIDTH // 8
    scale = mx.ones(KERNELS_WIDTH, dtype=dtype)
    cache = mx.zeros((1, heads, 128, size), dtype=dtype)
    mx.eval(scale, cache)

    def layer(x: mx.array) -> mx.array:
        normed = mx.fast.rms_norm(x, scale, 1e-5)
        split = normed.reshape(1, 1, heads, size).transpose(0, 2, 1, 3)
        queries = mx.fast.rope(split, size, traditional=False, base=1e4, scale=1.0, offset=7)
        keys = mx.fast.rope(split, size, traditional=False, base=1e4, scale=1.0, offset=7)
        cache[..., 7:8, :] = keys
        attended = mx.fast.scaled_dot_product_attention(queries, cache, cache, scale=0.1)
        x = x + attended.transpose(0, 2, 1, 3).reshape(1, 1, KERNELS_WIDTH)
        normed = mx.fast.rms_norm(x, scale, 1e-5)
        return x + normed * mx.sigmoid(normed) * normed

    def run() -> None:
        x = mx.ones((1, 1, KERNELS_WIDTH), dtype=dtype)
        for _ in range(KERNELS_LAYERS):
            x = layer(x)
        mx.eval(x)

    return best_seconds(run, METAL_WARMUP_S if on_metal else 0.0) / KERNELS_LAYERS
