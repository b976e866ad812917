"""Tests that stages of any mlx-lm model compute exactly what the model computes."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache

from pomona_stage_worker.slicing import (
    ActivationsError,
    IllegalCutError,
    StageModel,
    legal_cuts,
    owned_parameters,
    slice_model,
    uncuttable_reason,
)
from support.slicing.conformance import conform
from support.slicing.families import FAMILIES, build, installed_families, randomise
from support.slicing.table import TABLE, table_row

# What cannot be cut at every layer: those that share keys and values across layers, and those
# that cannot be cut at all.
RESTRICTED = {
    "afm7": [1, 2],
    "deepseek_v41": [1, 3, 4],
    "deepseek_v41:candidates": [1, 3, 5],
    "gemma3n": [1],
    "gemma4": [1, 2],
    "gemma4_text": [1, 2],
    "iquestloopcoder": [],
    "nanbeige:loops": [],
    "olmo": [],
    "olmo:tied": [],
}
# What mlx-lm itself cannot run as a batch.
UNBATCHED = {
    "deepseek_v41",
    "deepseek_v41:candidates",
    "gemma2",
    "gpt_bigcode",
    "llama4",
    "nemotron-nas:linear",
    "olmo",
    "olmo:tied",
    "phi3small",
}
TOKENS = mx.array([[3, 1, 4, 1, 5]])


def built(row: str) -> nn.Module:
    model = build(row)
    randomise(model)
    return model


def run(model: nn.Module, tokens: mx.array, cache: list[Any]) -> mx.array:
    return cast("Callable[..., mx.array]", model)(tokens, cache=cache)


def two_stages(model: nn.Module, cut: int) -> tuple[StageModel, StageModel]:
    return slice_model(model, 0, cut), slice_model(model, cut, len(cast("Any", model).layers))


def test_families_cover_every_architecture_of_the_installed_mlx_lm() -> None:
    # solar_open and its like are another family's Model under their own configuration.
    assert installed_families() == {row.partition(":")[0] for row in FAMILIES}


@pytest.mark.slow
@pytest.mark.parametrize("row", FAMILIES)
def test_stages_compute_exactly_what_the_model_computes(row: str) -> None:
    outcome = conform(row)
    assert outcome.failures == []
    assert outcome.cuts == RESTRICTED.get(row, list(range(1, outcome.layer_count)))
    assert (outcome.uncuttable_reason is None) == bool(outcome.cuts)
    assert outcome.batches == (row not in UNBATCHED)
    assert table_row(row, outcome) in TABLE.read_text().splitlines(), "generate the table again"


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_stages_are_exact_in_half_precision(dtype: mx.Dtype) -> None:
    model = built("llama")
    model.set_dtype(dtype)
    head, tail = two_stages(model, 1)
    sent = head(TOKENS, None, head.make_cache())
    assert sent.dtype == dtype
    expected = run(model, TOKENS, make_prompt_cache(model))
    assert mx.array_equal(tail(TOKENS, sent, tail.make_cache()), expected)


@pytest.mark.parametrize("row", ["llama", "llama:sliding", "qwen3_moe"])
def test_stages_of_a_quantised_model_are_exact_and_own_their_scales(row: str) -> None:
    model = built(row)
    nn.quantize(model, group_size=32, bits=4, class_predicate=_divisible)
    head, tail = two_stages(model, 2)
    expected = run(model, TOKENS, make_prompt_cache(model))
    sent = head(TOKENS, None, head.make_cache())
    assert mx.array_equal(tail(TOKENS, sent, tail.make_cache()), expected)
    assert "model.embed_tokens.scales" in owned_parameters(model, 0, 2)


def _divisible(_: str, module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module["weight"].shape[-1] % 32 == 0


def test_each_parameter_belongs_to_one_stage_and_a_tied_embedding_to_two() -> None:
    for row, twice in (("llama", set[str]()), ("llama:sliding", {"model.embed_tokens.weight"})):
        model = built(row)
        head, tail = owned_parameters(model, 0, 3), owned_parameters(model, 3, 4)
        assert head | tail == set(dict(cast("Any", tree_flatten(model.parameters()))))
        assert head & tail == twice


def test_no_stage_owns_a_vision_tower() -> None:
    model = built("llama")
    model["vision_tower"] = nn.Linear(4, 4)
    owned = owned_parameters(model, 0, 2) | owned_parameters(model, 2, 4)
    assert not any(name.startswith("vision_tower") for name in owned)


def test_tracing_a_model_evaluates_nothing() -> None:
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    huge = llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=16384,
            num_hidden_layers=80,
            intermediate_size=53248,
            num_attention_heads=128,
            num_key_value_heads=8,
            rms_norm_eps=1e-5,
            vocab_size=128256,
        )
    )
    assert legal_cuts(huge) == list(range(1, 80))
    assert len(owned_parameters(huge, 79, 80)) == 11
    assert mx.get_peak_memory() - before < 100e6


def test_tracing_leaves_no_reference_to_the_model() -> None:
    before = mx.get_active_memory()
    model = built("llama")
    mx.eval(run(model, TOKENS, make_prompt_cache(model)))
    gc.disable()
    try:
        assert legal_cuts(model) == [1, 2, 3]
        del model
        assert mx.get_active_memory() - before < 20_000
    finally:
        gc.enable()


def test_weights_may_be_loaded_after_the_model_is_cut() -> None:
    model = build("kimi_k3")
    head, tail = two_stages(model, 2)
    randomise(model)
    expected = run(model, TOKENS, make_prompt_cache(model))
    sent = head(TOKENS, None, head.make_cache())
    assert mx.array_equal(tail(TOKENS, sent, tail.make_cache()), expected)


def test_cutting_and_running_leave_the_model_unchanged() -> None:
    model = built("llama")
    layers = list(cast("Any", model).layers)
    head, _ = two_stages(model, 2)
    head(TOKENS, None, head.make_cache())
    with pytest.raises(IndexError):
        head(TOKENS, None, [])
    assert all(a is b for a, b in zip(cast("Any", model).layers, layers, strict=True))
    assert all(type(module).__module__.startswith("mlx") for module in model.modules())


def test_phantom_caches_do_not_grow_over_steps() -> None:
    model = built("qwen3_next")
    head, _ = two_stages(model, 1)
    prefilled = [head.make_cache() for _ in range(2)]
    for cache in prefilled:
        head(TOKENS, None, cache)
    batch = [entries[0].merge(list(entries)) for entries in zip(*prefilled, strict=True)]
    sizes: list[int] = []
    for _ in range(60):
        sent = head(mx.array([[1], [2]]), None, batch)
        mx.eval(sent, [entry.state for entry in head.owned_caches(batch)])
        sizes.append(mx.get_active_memory())
    assert sizes[-1] - sizes[10] < 1024


def test_the_layers_of_a_batch_share_one_offset_addition(tmp_path: Path) -> None:
    model = built("llama")
    stage = slice_model(model, 0, len(cast("Any", model).layers))
    rows = [TOKENS, TOKENS[:, 2:]]
    prefilled = [stage.make_cache() for _ in rows]
    for tokens, cache in zip(rows, prefilled, strict=True):
        stage(tokens, None, cache)
    batch = [entries[0].merge(list(entries)) for entries in zip(*prefilled, strict=True)]
    mx.eval([entry.offset for entry in batch])
    stage(mx.array([[1], [2]]), None, batch)
    graph = tmp_path / "offsets.dot"
    mx.export_to_dot(str(graph), *(entry.offset for entry in batch))
    assert graph.read_text().count('"Add"') == 1
    assert [entry.offset.tolist() for entry in batch] == [[6, 4]] * len(batch)


def test_a_model_without_legal_cuts_gives_the_reason_and_runs_whole() -> None:
    model = built("iquestloopcoder")
    assert legal_cuts(model) == []
    assert "layers" in (uncuttable_reason(model) or "")
    stage = slice_model(model, 0, 4)
    assert stage.is_head
    assert stage.is_tail
    logits = stage(TOKENS, None, stage.make_cache(), logits="last")
    assert logits.shape == (1, 1, 64)


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (2, 7), (1, 1), (-1, 3), (0, 9)])
def test_the_error_for_an_illegal_cut_lists_the_legal_cuts(start: int, stop: int) -> None:
    with pytest.raises(IllegalCutError, match=r"\[1\]") as raised:
        slice_model(build("gemma3n"), start, stop)
    assert raised.value.legal == [1]


def test_a_stage_refuses_the_wrong_number_of_activations() -> None:
    head, tail = two_stages(built("rwkv7"), 2)
    with pytest.raises(ActivationsError, match="takes 2 activation arrays, got 1"):
        tail(TOKENS, mx.zeros((1, 5, 32)), tail.make_cache())
    with pytest.raises(ActivationsError, match="takes 0 activation arrays, got 1"):
        head(TOKENS, mx.zeros((1, 5, 32)), head.make_cache())
