"""Tests that RoPE with shared angles equals MLX's to the last bit."""

from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import make_prompt_cache

from pomona_stage_worker.hardware.cpu_rope import RopeAngles, SharedRoPE, share_angles
from pomona_stage_worker.slicing import slice_model
from support.slicing.families import build, randomise

OFFSETS = {
    "scalar": 1234,
    "array of one": mx.array([7]),
    "one per row": mx.array([7, 0, 4000]),
}


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("which", OFFSETS)
def test_a_rotation_equals_mlxs(which: str, length: int) -> None:
    offset = OFFSETS[which]
    rows = offset.size if isinstance(offset, mx.array) else 2
    x = mx.random.normal((rows, length, 3, 16)).swapaxes(1, 2)
    shared = SharedRoPE(16, 5e5, RopeAngles(16, 5e5))
    plain = nn.RoPE(16, base=5e5)
    assert mx.array_equal(shared(x, offset), plain(x, offset=cast("Any", offset)))


@pytest.mark.parametrize("x", [mx.ones((1, 3, 2, 24)), mx.ones((1, 3, 2, 16), dtype=mx.float16)])
def test_partial_heads_and_half_precision_use_mlxs_rope(x: mx.array) -> None:
    turned = SharedRoPE(16, 1e4, RopeAngles(16, 1e4))(x, 3)
    assert turned.dtype == x.dtype
    assert mx.array_equal(turned, nn.RoPE(16, base=1e4)(x, offset=3))


def test_only_plain_rope_layers_are_replaced() -> None:
    model = nn.Sequential(
        nn.RoPE(16), nn.RoPE(16, traditional=True), nn.RoPE(16, scale=0.5), nn.RoPE(16, base=5e5)
    )
    share_angles(model)
    assert [type(layer) for layer in model.layers] == [SharedRoPE, nn.RoPE, nn.RoPE, SharedRoPE]


@pytest.mark.parametrize(
    "row", ["gemma3_text", "glm4_moe", "llama", "minimax", "mixtral", "phi3", "qwen3", "qwen3_next"]
)
def test_models_with_shared_angles_compute_the_same_bits(row: str) -> None:
    model: Any = build(row)
    randomise(model)

    def outputs() -> list[mx.array]:
        caches = [make_prompt_cache(model) for _ in range(2)]
        prompts = [mx.array([[3, 1, 4, 1, 5]]), mx.array([[9, 2]])]
        made = [model(p, cache=c) for p, c in zip(prompts, caches, strict=True)]
        made.append(model(mx.array([[7]]), cache=caches[0]))
        lane = [entries[0].merge(list(entries)) for entries in zip(*caches, strict=True)]
        return [*made, *(model(mx.array([[6], [5]]), cache=lane) for _ in range(2))]

    before = outputs()
    share_angles(model)
    assert any(type(module) is SharedRoPE for module in model.modules())
    assert all(mx.array_equal(a, b) for a, b in zip(outputs(), before, strict=True))


@pytest.mark.parametrize("rows", [1, 2])
def test_a_step_computes_its_angles_once_for_all_layers(rows: int, tmp_path: Path) -> None:
    model = build("llama")
    randomise(model)
    share_angles(model)
    stage = slice_model(model, 0, len(cast("Any", model).layers))
    tokens = [mx.array([[3, 1, 4]]), mx.array([[1, 5]])][:rows]
    caches = [stage.make_cache() for _ in tokens]
    for prompt, cache in zip(tokens, caches, strict=True):
        stage(prompt, None, cache)
    cache = caches[0]
    if rows > 1:
        cache = [entries[0].merge(list(entries)) for entries in zip(*caches, strict=True)]
    step = mx.array([[2]] * rows)
    mx.eval(stage(step, None, cache), [c.state[:2] for c in cache])
    graph = tmp_path / "step.dot"
    mx.export_to_dot(str(graph), stage(step, None, cache))
    assert graph.read_text().count('"Cos"') == 1
