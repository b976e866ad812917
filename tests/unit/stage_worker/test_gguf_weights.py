"""Tests that a GGUF file gives the logits of its original model, whole and cut."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from pomona.errors import ModelError, ModelUnsupportedError
from pomona.models import read_facts
from pomona_stage_worker.hardware import cpu_float32
from pomona_stage_worker.loading import assemble, gguf_weights, read_weights
from support.models.folders import tensors_of
from support.models.gguf_files import CONFIG, LAYERS, random_model, write_gguf

TOKENS = mx.array([[3, 17, 101, 5, 44, 9, 80, 2]])
GEMMA2 = {"query_pre_attn_scalar": 64.0}
GEMMA3 = {
    "query_pre_attn_scalar": 64.0,
    "rope_local_base_freq": 10000.0,
    "sliding_window": 4,
    "sliding_window_pattern": 6,
}
FAMILIES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", "llama", {"tie_word_embeddings": False}, {}),
    "llama tied": ("llama", "llama", {"tie_word_embeddings": True}, {}),
    "llama linear": (
        "llama",
        "llama",
        {"tie_word_embeddings": False, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope.scaling.factor": 4.0},
    ),
    "qwen2": ("qwen2", "qwen2", {"tie_word_embeddings": True}, {}),
    "qwen3": ("qwen3", "qwen3", {"tie_word_embeddings": False}, {}),
    "gemma": ("gemma", "gemma", {}, {}),
    "gemma2": ("gemma2", "gemma2", GEMMA2, {"attn_logit_softcapping": 50.0}),
    "gemma3": ("gemma3", "gemma3_text", GEMMA3, {"attention.sliding_window": 4}),
}


def ignore_progress(done: int, total: int, fetching: bool = False) -> None:
    pass


def logits_of(path: Path, bounds: tuple[int, ...] = (0, LAYERS)) -> mx.array:
    """Returns the logits of consecutive stages, each with only its own weights."""
    activations: Any = None
    for start, stop in pairwise(bounds):
        stage = assemble(read_weights(str(path), start, stop, ignore_progress))
        activations = stage(TOKENS, activations, stage.make_cache())
        mx.eval(activations)
    return activations


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("bounds", [(0, 6), (0, 2, 6)])
def test_logits_of_a_gguf_file_equal_mlx_lms(
    name: str, bounds: tuple[int, ...], tmp_path: Path
) -> None:
    architecture, model_type, settings, metadata = FAMILIES[name]
    model = random_model(model_type, **settings)
    path = tmp_path / "model.gguf"
    scaling = "linear" if "rope.scaling.factor" in metadata else ""
    write_gguf(path, architecture, model, metadata, scaling=scaling)
    expected = model(TOKENS)
    assert mx.allclose(logits_of(path, bounds), expected, rtol=1e-4, atol=1e-4)
    facts = read_facts(str(path))
    parameters = sum(int(x.size) for x in tensors_of(model).values())
    assert facts.parameters == parameters
    assert facts.layer_count == LAYERS
    assert facts.vocab_size == CONFIG["vocab_size"]


def test_scaled_rope_frequencies_come_from_the_file(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model = random_model("llama", tie_word_embeddings=True, rope_scaling=scaling)
    scaled = model.layers[0].self_attn.rope._freqs
    plain = CONFIG["rope_theta"] ** (mx.arange(0, 64, 2) / 64)
    factors = np.array(scaled / plain).astype(np.float32)
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama", model, {}, rope_factors=factors)
    assert mx.allclose(logits_of(path), model(TOKENS), rtol=1e-4, atol=1e-4)


@pytest.fixture
def as_on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps matrices quantised, as on a machine with Metal."""
    for module in (gguf_weights, cpu_float32):
        monkeypatch.setattr(module, "on_metal", lambda: True)


@pytest.mark.parametrize(
    ("file_type", "expected"),
    [(None, "q4_k"), (15, "q4_k_m"), (0, "f32"), (1024, "q4_k"), (99, "q4_k")],
)
def test_quantisation_is_the_files_own_or_that_of_most_tensors(
    tmp_path: Path, file_type: int | None, expected: str
) -> None:
    path = tmp_path / "model.gguf"
    model = random_model("qwen3", tie_word_embeddings=False)
    write_gguf(path, "qwen3", model, {}, default="Q4_K", file_type=file_type)
    assert read_facts(str(path)).quantization == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_0", "F16", "BF16"])
def test_quantised_matrices_equal_the_files(
    kind: str, tmp_path: Path, as_on_metal: None, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model("qwen3", tie_word_embeddings=False)
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen3", model, {}, default=kind)
    with caplog.at_level(logging.WARNING):
        weights = read_weights(str(path), 0, LAYERS, ignore_progress)
    arrays = weights.arrays
    assert ("converted to 8 bits" in caplog.text) == (kind == "Q5_0")
    expected_bits = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8, "Q4_K": 4, "Q5_0": 8}.get(kind)
    name = "model.layers.1.mlp.up_proj"
    assert (f"{name}.scales" in arrays) == (expected_bits is not None)
    exact = _from_file(path, "blk.1.ffn_up.weight")
    got = arrays[f"{name}.weight"]
    if expected_bits:
        got = mx.dequantize(
            got,
            arrays[f"{name}.scales"].astype(mx.float32),
            arrays[f"{name}.biases"].astype(mx.float32),
            group_size=32,
            bits=expected_bits,
        )
    assert np.allclose(np.array(got.astype(mx.float32)), exact, atol=2e-3)
    logits = assemble(weights)(TOKENS, None, assemble(weights).make_cache())
    assert logits.shape == (1, TOKENS.shape[1], CONFIG["vocab_size"])


def _from_file(path: Path, name: str) -> Any:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    tensor = next(x for x in GGUFReader(path).tensors if x.name == name)
    if tensor.tensor_type.name == "BF16":
        raw = np.ascontiguousarray(tensor.data).view(np.uint16).astype(np.uint32) << 16
        return raw.view(np.float32)
    return dequantize(tensor.data, tensor.tensor_type)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def _without_embedding(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"token_embd.weight", b"token_embx.weight"))


def _unknown_family(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"llama", b"lamma"))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_cut, ModelError, r"model\.gguf.*tensor blk|model\.gguf.*tensor output"),
        (_without_embedding, ModelError, r"model\.gguf has no tensor token_embd\.weight"),
        (_unknown_family, ModelUnsupportedError, "lamma is not a supported GGUF architecture"),
    ],
)
def test_the_error_for_a_damaged_file_names_the_place(
    damage: Callable[[Path], None], error: type[ModelError], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama", random_model("llama", tie_word_embeddings=True), {})
    damage(path)
    with pytest.raises(error, match=message):
        read_weights(str(path), 0, 1, ignore_progress)
