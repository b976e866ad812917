"""The Metal kernels of two families in plain MLX.

Without Metal these families cannot run, and their slicing could not be tested. The replacements
compute the same functions. With Metal nothing is replaced.
"""

from typing import Any

import mlx.core as mx
from mlx_lm.models import bitlinear_layers, muse_spark


def use_plain_kernels() -> None:
    """Replaces the Metal kernels of bitnet and muse_spark if Metal is not available."""
    if mx.metal.is_available():
        return
    setattr(bitlinear_layers, "_bitlinear_kernel", _bitlinear)  # noqa: B010  # its type is a Metal kernel
    for kernel in (
        expert_routing,
        norm_add_norm,
        post_expert_norm_combine,
        qk_norm,
        qk_norm_rope,
        rms_norm_sigmoid_gate,
    ):
        setattr(muse_spark, kernel.__name__, kernel)


def _bitlinear(inputs: list[mx.array], **_: Any) -> list[mx.array]:
    x, packed, scale = inputs
    ternary = mx.concatenate([((packed >> s) & 3).astype(x.dtype) - 1 for s in (0, 2, 4, 6)])
    return [(x @ ternary.T) / scale]


def expert_routing(
    logits: mx.array,
    expert_bias: mx.array,
    *,
    top_k: int,
    multiplier: float,
    score_eps: float,
    route_scale: float,
) -> list[mx.array]:
    scores = mx.sigmoid(logits * multiplier)
    chosen = mx.argsort(-(scores + expert_bias), axis=-1)[..., :top_k]
    weights = mx.take_along_axis(scores, chosen, axis=-1)
    weights = weights / (weights.sum(-1, keepdims=True) + score_eps) * route_scale
    return [chosen.astype(mx.uint32), weights]


def norm_add_norm(
    branch: mx.array,
    stream: mx.array,
    *,
    alpha: mx.array,
    beta: mx.array,
    post_weight: mx.array | None,
    post_eps: float,
    next_norm: Any,
) -> tuple[mx.array, mx.array | None]:
    scaled = branch if post_weight is None else branch * post_weight
    stream = alpha * stream + beta * mx.fast.rms_norm(scaled.astype(mx.float32), None, post_eps)
    if next_norm is None:
        return stream, None
    normed = mx.fast.rms_norm(stream, next_norm.weight, next_norm.eps)
    return stream, normed.astype(branch.dtype)


def post_expert_norm_combine(
    experts: mx.array, weights: mx.array, *, norm_weight: mx.array, eps: float
) -> mx.array:
    normed = mx.fast.rms_norm(experts * norm_weight, None, eps)
    return (normed * weights[..., None]).sum(-2).astype(experts.dtype)


def qk_norm(
    qkvg: mx.array,
    *,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    eps: float,
    query_scale: float,
) -> list[mx.array]:
    both = qkvg[..., : (n_heads + n_kv_heads) * head_dim]
    both = both.reshape(*qkvg.shape[:-1], n_heads + n_kv_heads, head_dim)
    both = mx.fast.rms_norm(both, None, eps)
    return [both[..., :n_heads, :] * query_scale, both[..., n_heads:, :]]


def qk_norm_rope(
    qkvg: mx.array, *, rope_base: float, offset: int | mx.array, **norm: Any
) -> list[mx.array]:
    def rotated(x: mx.array) -> mx.array:
        x = mx.fast.rope(
            x.transpose(0, 2, 1, 3),
            norm["head_dim"],
            traditional=True,
            base=rope_base,
            scale=1.0,
            offset=offset,
        )
        return x.transpose(0, 2, 1, 3)

    return [rotated(x) for x in qk_norm(qkvg, **norm)]


def rms_norm_sigmoid_gate(x: mx.array, gate: mx.array, *, eps: float) -> mx.array:
    batch, _, length, _ = x.shape
    normed = mx.fast.rms_norm(x, None, eps).transpose(0, 2, 1, 3).reshape(batch, length, -1)
    return normed * mx.sigmoid(gate)
