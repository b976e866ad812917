"""Derives KV cache sizes and active experts of a model's layers from its config.json.

Works without MLX, for planner and gateway. The rules follow mlx-lm's model classes, and the
tests compare them with those classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pomona.errors import ModelUnsupportedError
from pomona.messages.limits import MAX_LAYERS
from pomona.models.fact_ranges import MAX_HEADS, MAX_HIDDEN_SIZE, MAX_NUMBER, check_range

_WINDOWED_BY_TYPE = frozenset({
    "afmoe", "exaone_moe", "gear", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gpt_oss",
    "laguna", "llama", "mellum", "ministral3", "mistral3", "muse_glimmer", "olmo3", "spark2_5",
})  # fmt: skip
"""Families in which mlx-lm bounds the cache of layers of type ``sliding_attention``."""
_WINDOWED_BY_PATTERN = frozenset({"gemma3", "gemma3_text", "cohere2"})
"""Families in which each n-th layer, n = ``sliding_window_pattern``, has full attention."""
_DEFAULT_PATTERN = {"gemma3": 6, "gemma3_text": 6, "cohere2": 4}
_LLAMA4_FULL_EVERY = 4
_EXPANDED_LATENT = frozenset({"deepseek_v2", "minicpm3", "youtu_llm"})
"""Families with latent attention for which mlx-lm caches keys and values per head."""
_KEY_TENSORS = (
    "k_proj", "kv_a_proj", "kv_b_proj", "qkv", "wqkv", "query_key_value", "c_attn", "kv_proj",
    "wk.", "key_proj", "att_proj", "key.weight",
)  # fmt: skip
_LATENT_TENSORS = ("kv_a_proj", "kv_a_layernorm", "kv_b_proj", "embed_q", "unembed_out")
_RECURRENT_MARKS = ("linear_attn.", "mamba.", ".ssm", "A_log", "rglru", "conv1d", "time_mix")


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Size of a layer's cache. The fields are those of LayerFacts."""

    values_per_token: int = 0
    window: int = 0
    state_values: int = 0
    latent: bool = False


NO_CACHE = LayerCache()


def whole_number(value: Any) -> int | None:
    """Returns an integer, also from a float like 32.0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == value // 1 else None


class TextConfig:
    """The language-model part of a config.json.

    Properties raise ModelUnsupportedError naming the missing key.
    """

    def __init__(self, config: Mapping[str, Any], file: Path) -> None:
        inner = config.get("text_config") or config.get("llm_config")
        self.values: Mapping[str, Any] = cast("Mapping[str, Any]", inner or config)
        self.family = str(config.get("model_type", ""))
        self.text_family = str(self.values.get("model_type", self.family))
        self._file = file

    def number(
        self, *keys: str, default: int | None = None, least: int = 0, most: int = MAX_NUMBER
    ) -> int:
        """Returns the value of the first key present, or the maximum of a list of integers.

        A negative value stands for an absent one, as in many configurations, where 0 is allowed.

        Raises ModelUnsupportedError naming a key that is missing or out of [least, most].
        """
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, list):
                whole = [whole_number(x) for x in cast("list[Any]", value)]
                value = max((x for x in whole if x is not None), default=None)
            number = whole_number(value)
            if number is not None and (number >= 0 or least > 0 or default is None):
                return check_range(self._file, key, number, least, most)
        if default is None:
            raise ModelUnsupportedError(f"{self._file} lacks the key {' or '.join(keys)}")
        return default

    def is_one_of(self, families: frozenset[str]) -> bool:
        return self.family in families or self.text_family in families

    def numbers(self, key: str) -> Sequence[int]:
        """Returns a list of integers, empty when the key is absent."""
        value = self.values.get(key)
        found = cast("list[Any]", value) if isinstance(value, list) else []
        return [whole_number(x) or 0 for x in found]

    @property
    def layer_count(self) -> int:
        keys = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
        return self.number(*keys, least=1, most=MAX_LAYERS)

    @property
    def hidden_size(self) -> int:
        keys = ("hidden_size", "d_model", "n_embd", "dim", "model_dim", "hidden_dim")
        return self.number(*keys, least=1, most=MAX_HIDDEN_SIZE)

    @property
    def layer_types(self) -> Sequence[str]:
        """Type of each layer; empty when the configuration has none."""
        types = self.values.get("layer_types")
        return cast("list[str]", types) if isinstance(types, list) else ()

    @property
    def inactive_fraction(self) -> float:
        """Fraction of the routed experts that a token does not use, in [0, 1)."""
        count = self.number(
            "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", default=0
        )
        used = self.number(
            "num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k", "num_selected_experts",
            "experts_per_token", "top_k_experts", default=count,
        )  # fmt: skip
        return max(0.0, 1 - used / count) if count else 0.0


def layer_cache(text: TextConfig, layer: int, tensors: Sequence[str]) -> LayerCache:
    """Returns the cache size of a layer, from the names of its tensors."""
    recurrent = any(mark in name for name in tensors for mark in _RECURRENT_MARKS)
    attends = any(
        mark in name
        for name in tensors
        for mark in _KEY_TENSORS
        if "cross" not in name and not any(x in name for x in _RECURRENT_MARKS)
    )
    state = _state_values(text) if recurrent else 0
    if not attends:
        return LayerCache(state_values=state)
    latent = any(mark in name for name in tensors for mark in _LATENT_TENSORS)
    return LayerCache(_values_per_token(text, layer, latent), _window(text, layer), state, latent)


def _values_per_token(text: TextConfig, layer: int, latent: bool) -> int:
    hidden = text.hidden_size
    keys = ("num_attention_heads", "n_heads", "n_head", "num_heads")
    heads = text.number(*keys, default=1, least=1, most=MAX_HEADS)
    if latent:
        rope = text.number("qk_rope_head_dim", default=0)
        if text.is_one_of(_EXPANDED_LATENT):
            key = text.number("qk_nope_head_dim", default=0) + rope
            return heads * (key + text.number("v_head_dim", default=key))
        return text.number("kv_lora_rank") + rope
    kv_heads = text.number(
        "num_key_value_heads", "num_kv_heads", "n_kv_heads", "num_attention_groups", default=heads,
        least=1, most=MAX_HEADS,
    )  # fmt: skip
    if text.values.get("multi_query") is True:
        kv_heads = 1
    head_dim = text.number("head_dim", "kv_channels", "attention_head_dim", default=hidden // heads)
    if layer < len(text.layer_types) and text.layer_types[layer] == "full_attention":
        head_dim = text.number("global_head_dim", default=head_dim)
    return kv_heads * (head_dim + text.number("v_head_dim", default=head_dim))


def _window(text: TextConfig, layer: int) -> int:
    if text.family == "llama4":
        chunk = text.number("attention_chunk_size", default=0)
        return 0 if (layer + 1) % _LLAMA4_FULL_EVERY == 0 else chunk
    size = text.number("sliding_window", "window_size", default=0)
    letters = text.values.get("sliding_window_pattern")
    if isinstance(letters, str) and letters:  # exaone4: LLLG
        return size if letters[layer % len(letters)] == "L" else 0
    if text.is_one_of(_WINDOWED_BY_PATTERN):
        default = _DEFAULT_PATTERN.get(text.text_family, 6)
        pattern = text.number("sliding_window_pattern", default=default, least=1)
        return size if layer % pattern != pattern - 1 else 0
    if text.is_one_of(_WINDOWED_BY_TYPE) and layer < len(text.layer_types):
        return size if text.layer_types[layer] == "sliding_attention" else 0
    return 0


def _state_values(text: TextConfig) -> int:
    heads = text.number("linear_num_value_heads", "mamba_num_heads", "mamba_n_heads", default=0)
    key = text.number("linear_key_head_dim", "ssm_state_size", "mamba_d_state", default=0)
    value = text.number("linear_value_head_dim", "mamba_head_dim", "mamba_d_head", default=0)
    return heads * key * value
