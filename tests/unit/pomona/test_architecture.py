"""Cache sizes from a config.json: equal to those of mlx-lm's model classes."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ChunkedKVCache, KVCache, RotatingKVCache, make_prompt_cache

from pomona.models.architecture import layer_cache
from support.models.folders import tensors_of
from support.slicing.families import build
from support.text_configs import text_config_of

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


def size_of(cache: Any) -> tuple[int, int] | None:
    """Returns elements per token and window of a filled cache; None for other kinds of cache."""
    if type(cache) not in (KVCache, RotatingKVCache, ChunkedKVCache) or cache.keys is None:
        return None
    values = sum(int(x.shape[1] * x.shape[3]) for x in (cache.keys, cache.values))
    window = getattr(cache, "max_size", 0) if isinstance(cache, RotatingKVCache) else 0
    return values, cache.chunk_size if isinstance(cache, ChunkedKVCache) else window


@pytest.mark.parametrize("row", ROWS)
def test_the_computed_cache_size_equals_that_of_the_model_class(row: str) -> None:
    model: Any = build(row)
    names = list(tensors_of(model))
    text = text_config_of(row)
    caches = make_prompt_cache(model)
    mx.eval(model(mx.array([[1, 2, 3]]), cache=caches))
    assert len(model.layers) == text.layer_count
    for index, cache in enumerate(caches[: text.layer_count]):
        own = [name for name in names if f"layers.{index}." in name]
        computed, actual = layer_cache(text, index, own), size_of(cache)
        if actual is not None:
            assert (computed.values_per_token, computed.window) == actual, f"layer {index}"
