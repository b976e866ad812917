"""How fast this machine is, measured through MLX once and kept in the state folder.

The planner predicts with three figures: bytes of weights read a second, floating-point
operations a second in products, and the time of a layer's small kernels. They are measured
anew when the chip, the device, MLX or its environment changes.
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

log = logging.getLogger(__name__)

METHOD = "6"
"""Of measuring; figures of another one are measured anew."""
REPEATS = 5
READ_BYTES = 64 << 20
"""Of weights in one reading: more than any cache of a processor holds."""
PRODUCT = 1024
KERNELS_WIDTH = 512
ROUNDS_OF_KERNELS = 8


@dataclass(frozen=True, slots=True)
class Speed:
    """Zeros before it was measured. Attributes:

    memory_bandwidth: bytes of weights a second, as decoding reads them.
    matrix_flops: floating-point operations a second in products of large matrices.
    layer_us: small kernels of one layer, microseconds.
    mlx_version: of MLX when it was measured.
    measured_on: what the figures belong to.
    """

    memory_bandwidth: float = 0.0
    matrix_flops: float = 0.0
    layer_us: float = 0.0
    mlx_version: str = ""
    measured_on: str = ""


_SPEED = TypeAdapter(Speed)


def known_speed(folder: Path, measured_on: str, measure: Callable[[], Speed]) -> Speed:
    """The figures kept in ``folder``, measured when there are none of ``measured_on``.

    Workers of one machine take turns: a measurement beside another one would be wrong.
    """
    path = folder / "speed.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "speed.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = _read(path)
            if kept is not None and kept.measured_on == measured_on:
                return kept
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
        log.warning("the machine's speed cannot be kept in %s: %s", folder, error)
        return Speed()


def _read(path: Path) -> Speed | None:
    try:
        return _SPEED.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s cannot be read and is measured anew: %s", path, type(error).__name__)
        return None


def signature(device: str) -> str:
    """What the figures depend on."""
    chip = platform.processor() or platform.machine()
    names = ("OPENBLAS_NUM_THREADS", "LD_PRELOAD", "OPENBLAS_CORETYPE")
    blas = [os.environ.get(name, "") for name in names]
    return " ".join([METHOD, chip, device, version("mlx"), *blas])


def measure_speed(on_metal: bool) -> Speed:
    """Measure, in about half a second; on Metal 4-bit weights, elsewhere float32."""
    import mlx.core as mx

    with mx.stream(mx.new_stream(mx.default_device())):
        return Speed(
            memory_bandwidth=_reading(on_metal),
            matrix_flops=_products(on_metal),
            layer_us=_kernels(on_metal) * 1e6,
            mlx_version=version("mlx"),
        )


def _best_time(run: Callable[[], None]) -> float:
    """Seconds of the quickest of several runs: whatever else runs only makes it slower."""
    run()
    best = float("inf")
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def _reading(on_metal: bool) -> float:
    import mlx.core as mx

    from pomona_stage_worker.hardware.cpu_matrix_layout import orders, product_seconds

    width = 2048
    x = mx.ones((1, width), dtype=mx.float16 if on_metal else mx.float32)
    if on_metal:
        rows = READ_BYTES * 2 // width
        weights, scales, biases = mx.quantize(
            mx.random.normal((rows, width)).astype(mx.float16), group_size=64, bits=4
        )
        mx.eval(weights, scales, biases)
        size = weights.nbytes + scales.nbytes + biases.nbytes

        def run() -> None:
            mx.eval(mx.quantized_matmul(x, weights, scales, biases, group_size=64, bits=4))

        return size / _best_time(run)
    plain = mx.random.normal((READ_BYTES // 4 // width, width))
    return plain.nbytes / min(product_seconds(order, plain) for order in orders(plain, True))


def _products(on_metal: bool) -> float:
    import mlx.core as mx

    size = PRODUCT * (4 if on_metal else 1)
    dtype = mx.float16 if on_metal else mx.float32
    a = mx.random.normal((size // 2, size)).astype(dtype)
    b = mx.random.normal((size, size)).astype(dtype)
    mx.eval(a, b)
    return size * size * size / _best_time(lambda: mx.eval(a @ b))


def _kernels(on_metal: bool) -> float:
    """What a layer runs besides its weights: norms, rotations, attention, activation."""
    import mlx.core as mx

    dtype = mx.float16 if on_metal else mx.float32
    heads, size = 8, KERNELS_WIDTH // 8
    scale = mx.ones(KERNELS_WIDTH, dtype=dtype)
    kept = mx.zeros((1, heads, 128, size), dtype=dtype)
    mx.eval(scale, kept)

    def layer(x: mx.array) -> mx.array:
        normed = mx.fast.rms_norm(x, scale, 1e-5)
        split = normed.reshape(1, 1, heads, size).transpose(0, 2, 1, 3)
        queries = mx.fast.rope(split, size, traditional=False, base=1e4, scale=1.0, offset=7)
        keys = mx.fast.rope(split, size, traditional=False, base=1e4, scale=1.0, offset=7)
        kept[..., 7:8, :] = keys
        attended = mx.fast.scaled_dot_product_attention(queries, kept, kept, scale=0.1)
        x = x + attended.transpose(0, 2, 1, 3).reshape(1, 1, KERNELS_WIDTH)
        normed = mx.fast.rms_norm(x, scale, 1e-5)
        return x + normed * mx.sigmoid(normed) * normed

    def run() -> None:
        x = mx.ones((1, 1, KERNELS_WIDTH), dtype=dtype)
        for _ in range(ROUNDS_OF_KERNELS):
            x = layer(x)
        mx.eval(x)

    return _best_time(run) / ROUNDS_OF_KERNELS
