"""Facts of large models by name, for plans made before anything is fetched.

Each follows from the model's published ``config.json``; weights are counted as mlx-lm
quantises them: 4 bits in groups of 64 with a scale and a bias of 16 bits, 4.5 bits in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pomona.models import LayerFacts, ModelFacts

BITS = 4.5


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model, in parameters.

    Attributes:
        attention: of one layer's attention.
        kv: numbers that a layer's cache grows by with each token.
        experts, expert_size, active_experts, shared_size: routed experts, and what every
            token passes; with 0 experts that is all.
        dense, dense_size: the layers without experts, and their feed-forward part.
    """

    architecture: str
    source: str
    layers: int
    hidden: int
    vocabulary: int
    context: int
    attention: int
    kv: int
    experts: int = 0
    expert_size: int = 0
    active_experts: int = 0
    shared_size: int = 0
    dense_size: int = 0
    dense: frozenset[int] = frozenset()
    tied: bool = False


def _mlp(hidden: int, inner: int) -> int:
    return 3 * hidden * inner


# Attention of DeepSeek V3: q_a, q_b, kv_a, kv_b, o, with 128 heads of 128 + 64 and 128.
_DEEPSEEK_V3 = Shape(
    architecture="deepseek_v3",
    source="https://huggingface.co/deepseek-ai/DeepSeek-V3/blob/main/config.json",
    layers=61,
    hidden=7168,
    vocabulary=129280,
    context=163840,
    attention=7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168,
    kv=576,
    experts=256,
    expert_size=_mlp(7168, 2048),
    active_experts=8,
    shared_size=_mlp(7168, 2048),
    dense_size=_mlp(7168, 18432),
    dense=frozenset({0, 1, 2}),
)
_MAVERICK = Shape(
    architecture="llama4",
    source="https://huggingface.co/meta-llama/Llama-4-Maverick-17B-128E-Instruct",
    layers=48,
    hidden=5120,
    vocabulary=202048,
    context=1048576,
    attention=2 * 5120 * 5120 + 2 * 5120 * 1024,
    kv=2 * 8 * 128,
    experts=128,
    expert_size=_mlp(5120, 8192),
    active_experts=1,
    shared_size=_mlp(5120, 8192),
    dense_size=_mlp(5120, 16384),
    dense=frozenset(range(0, 48, 2)),
)
_SCOUT = Shape(
    architecture="llama4",
    source="https://huggingface.co/meta-llama/Llama-4-Scout-17B-16E-Instruct",
    layers=48,
    hidden=5120,
    vocabulary=202048,
    context=10485760,
    attention=2 * 5120 * 5120 + 2 * 5120 * 1024,
    kv=2 * 8 * 128,
    experts=16,
    expert_size=_mlp(5120, 8192),
    active_experts=1,
    shared_size=_mlp(5120, 8192),
)
_QWEN3_235B = Shape(
    architecture="qwen3_moe",
    source="https://huggingface.co/Qwen/Qwen3-235B-A22B/blob/main/config.json",
    layers=94,
    hidden=4096,
    vocabulary=151936,
    context=40960,
    attention=2 * 4096 * 64 * 128 + 2 * 4096 * 4 * 128,
    kv=2 * 4 * 128,
    experts=128,
    expert_size=_mlp(4096, 1536),
    active_experts=8,
)
_LLAMA_70B = Shape(
    architecture="llama",
    source="https://huggingface.co/meta-llama/Llama-3.3-70B-Instruct",
    layers=80,
    hidden=8192,
    vocabulary=128256,
    context=131072,
    attention=2 * 8192 * 8192 + 2 * 8192 * 1024,
    kv=2 * 8 * 128,
    shared_size=_mlp(8192, 28672),
)
_LLAMA_405B = Shape(
    architecture="llama",
    source="https://huggingface.co/meta-llama/Llama-3.1-405B-Instruct",
    layers=126,
    hidden=16384,
    vocabulary=128256,
    context=131072,
    attention=2 * 16384 * 16384 + 2 * 16384 * 1024,
    kv=2 * 8 * 128,
    shared_size=_mlp(16384, 53248),
)

SHAPES = {
    "deepseek-v3": _DEEPSEEK_V3,
    "deepseek-r1": _DEEPSEEK_V3,
    "llama-4-maverick": _MAVERICK,
    "llama-4-scout": _SCOUT,
    "qwen3-235b-a22b": _QWEN3_235B,
    "llama-3.3-70b": _LLAMA_70B,
    "llama-3.1-405b": _LLAMA_405B,
}


def known_facts(name: str, bits: float = BITS) -> ModelFacts | None:
    """Facts of a known model at ``bits`` a parameter, scales included; None if unknown."""
    shape = SHAPES.get(name.lower())
    return None if shape is None else _facts(name.lower(), shape, bits)


def _facts(name: str, shape: Shape, bits: float) -> ModelFacts:
    def size(parameters: int) -> int:
        return int(parameters * bits / 8)

    def layer(index: int) -> LayerFacts:
        if not shape.experts or index in shape.dense:
            inner = shape.dense_size if index in shape.dense else shape.shared_size
            parameters = shape.attention + inner + 2 * shape.hidden
            return LayerFacts(size(parameters), parameters, shape.kv)
        routed = shape.experts * shape.expert_size
        router = shape.hidden * shape.experts
        parameters = shape.attention + shape.shared_size + routed + router + 2 * shape.hidden
        idle = (shape.experts - shape.active_experts) * shape.expert_size
        return LayerFacts(
            size(parameters), parameters, shape.kv, idle_bytes=size(idle), idle_parameters=idle
        )

    vocabulary = shape.vocabulary * shape.hidden
    return ModelFacts(
        name=name,
        path=Path(name),
        format="data",
        architecture=shape.architecture,
        hidden_size=shape.hidden,
        vocab_size=shape.vocabulary,
        context_length=shape.context,
        tied_embedding=shape.tied,
        layers=tuple(layer(index) for index in range(shape.layers)),
        embedding=LayerFacts(size(vocabulary), vocabulary, 0),
        head=LayerFacts(size(vocabulary), vocabulary, 0),
        eos_token_ids=(),
        quantization=f"{bits:g} bits a parameter",
        source=shape.source,
    )
