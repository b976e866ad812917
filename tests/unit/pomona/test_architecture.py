"""What is told from a config.json agrees with what mlx-lm's model classes do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ChunkedKVCache, KVCache, RotatingKVCache, make_prompt_cache

from pomona.models.architecture import TextConfig, layer_cache
from pomona.models.legal_cuts import legal_cuts
from pomona_stage_worker import slicing
from support.models.folders import tensors_of
from support.slicing.families import COMMON, FAMILIES, build
from support.slicing.table import TABLE

ROWS = [
    "llama",
    "llama:sliding",
    "llama4",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "glm4_moe",
    "gpt_oss",
    "deepseek_v2",
    "deepseek_v3",
    "kimi_k25",
    "phi3",
    "mixtral",
    "cohere2",
    "exaone4",
    "olmo3",
    "minicpm3",
    "mamba2",
    "jamba",
    "lfm2",
    "ministral3",
]


def config_of(row: str) -> dict[str, Any]:
    config = {**COMMON, "model_type": row.partition(":")[0], **FAMILIES[row]}
    if "num_layers" in FAMILIES[row] and "num_hidden_layers" not in FAMILIES[row]:
        del config["num_hidden_layers"]
    return config


def text_of(row: str) -> TextConfig:
    return TextConfig(config_of(row), Path("config.json"))


def kept(cache: Any) -> tuple[int, int] | None:
    """Numbers a token, and the window, of a cache after a prompt; None when it is another
    kind of cache, or holds several."""
    if type(cache) not in (KVCache, RotatingKVCache, ChunkedKVCache) or cache.keys is None:
        return None
    values = sum(int(x.shape[1] * x.shape[3]) for x in (cache.keys, cache.values))
    window = getattr(cache, "max_size", 0) if isinstance(cache, RotatingKVCache) else 0
    return values, cache.chunk_size if isinstance(cache, ChunkedKVCache) else window


@pytest.mark.parametrize("row", ROWS)
def test_a_layer_keeps_what_its_cache_is_seen_to_keep(row: str) -> None:
    model: Any = build(row)
    names = list(tensors_of(model))
    text = text_of(row)
    caches = make_prompt_cache(model)
    mx.eval(model(mx.array([[1, 2, 3]]), cache=caches))
    assert len(model.layers) == text.layer_count
    for index, cache in enumerate(caches[: text.layer_count]):
        own = [name for name in names if f"layers.{index}." in name]
        told, seen = layer_cache(text, index, own), kept(cache)
        if seen is not None:
            assert (told.values_per_token, told.window) == seen, f"layer {index}"


@pytest.mark.parametrize("row", FAMILIES)
def test_legal_cuts_are_those_that_slicing_finds(row: str) -> None:
    text = text_of(row)
    told = legal_cuts(text)
    every = "all" if told is None or len(told) == text.layer_count - 1 else ""
    cuts = every or ", ".join(map(str, told or ())) or "none"
    # The table is what slicing finds, which its own tests check.
    assert f"| {row} | {text.layer_count} | {cuts} |" in TABLE.read_text()


@pytest.mark.parametrize(
    ("keeps", "selects"), [([0, 2, 5], [0, 3, 5]), ([1], [1, 4]), ([1, 4], [1]), ([3], [3])]
)
def test_compressed_keys_are_not_parted_from_who_reads_them(
    keeps: list[int], selects: list[int]
) -> None:
    own = {"kv_source_layer_ids": keeps, "index_source_layer_ids": selects}
    own["compress_ratios"] = [2, 2, 2, 0, 2, 2]
    config = {**COMMON, **FAMILIES["deepseek_v41"], **own}
    assert legal_cuts(TextConfig({**config, "model_type": "deepseek_v41"}, Path())) == tuple(
        slicing.legal_cuts(build("deepseek_v41", **own))
    )
