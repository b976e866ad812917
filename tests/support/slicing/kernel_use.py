"""Tells which Metal kernels of mlx-lm a model would reach on a Mac.

Without Metal mlx-lm computes the same in plain MLX. The functions that it calls instead of each
kernel are watched here, together with the sizes for which mlx-lm would take the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import mlx.core as mx
from mlx_lm.models import (
    bitlinear_layers,
    deepseek_v41,
    gated_delta,
    kimi_k3,
    muse_spark,
    rwkv7,
    ssm,
)

Reaches = Callable[..., bool]


def _gated_delta(q: mx.array, k: mx.array, *_: Any, **__: Any) -> bool:
    return k.shape[-1] >= 32 and k.shape[-1] % 32 == 0


def _state_space(hidden: mx.array, *rest: Any, **_: Any) -> bool:
    """Only single steps with a state use the kernel; the state is the eighth argument."""
    return hidden.shape[1] == 1 and len(rest) > 6 and rest[6] is not None


def _residual_mix(blocks: Any, *_: Any, **__: Any) -> bool:
    return blocks.raw is not None


def _sinkhorn(comb: mx.array, *, iters: int, **_: Any) -> bool:
    return iters >= 1 and comb.size > 0


def _always(*_: Any, **__: Any) -> bool:
    return True


WATCHED: tuple[tuple[str, Any, str, Reaches], ...] = (
    ("gated delta", gated_delta, "gated_delta_ops", _gated_delta),
    ("state space", ssm, "ssm_attn", _state_space),
    ("wkv7", rwkv7, "_wkv7_step_ops", _always),
    ("residual mix", kimi_k3, "_attn_res_mix", _residual_mix),
    ("sinkhorn", deepseek_v41, "_sinkhorn", _sinkhorn),
    ("bitlinear", bitlinear_layers, "_bitlinear_kernel", _always),
    ("muse", muse_spark, "rms_norm_sigmoid_gate", _always),
)
"""Kernel, module, function in its place, and whether its arguments would reach the kernel."""


@contextmanager
def kernels_reached() -> Generator[set[str]]:
    """Yields the names of the kernels that the models run in the block would reach."""
    seen: set[str] = set()
    with ExitStack() as stack:
        for name, module, function, reaches in WATCHED:
            plain: Callable[..., Any] | None = getattr(module, function)
            if plain is not None:
                watched = _watch(name, plain, reaches, seen)
                stack.enter_context(patch.object(module, function, watched))
        yield seen


def _watch(
    name: str, plain: Callable[..., Any], reaches: Reaches, seen: set[str]
) -> Callable[..., Any]:
    def watched(*arguments: Any, **named: Any) -> Any:
        if reaches(*arguments, **named):
            seen.add(name)
        return plain(*arguments, **named)

    return watched
