"""Facts of well-known models from published configurations, without any model files.

The data is in ``data/published.toml``. Parameter counts are computed from the configuration with
the shapes of mlx-lm's model classes, bytes from the quantization. ``ModelFacts.computed`` names
both.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from pomona.models.architecture import TextConfig, layer_cache
from pomona.models.facts import LayerFacts, ModelFacts

QUANTIZATIONS = {"4bit": 4.5, "6bit": 6.5, "8bit": 8.5, "bf16": 16.0}
"""Bits per weight, including scales and biases of groups of 64."""
_DATA = "published.toml"
_NORM_BITS = 16


def published_names() -> list[str]:
    return sorted(_data())


def published_facts(name: str, bits: float | None = None) -> ModelFacts | None:
    """Returns the facts of a known model, or None for an unknown name or quantization.

    Args:
        name: ``deepseek-v3``, for example, or ``deepseek-v3:8bit`` to select a quantization.
        bits: bits per weight, including scales, instead of the default quantization's.
    """
    model, _, quantization = name.lower().partition(":")
    data = _data().get(model)
    if data is None or (quantization and quantization not in QUANTIZATIONS):
        return None
    if bits is None and quantization:
        bits = QUANTIZATIONS[quantization]
    expert_bits = float(data["expert_bits"]) if bits is None else bits
    other_bits = float(data["other_bits"]) if bits is None else bits
    return _facts(name.lower(), data, expert_bits, other_bits, is_default=bits is None)


@functools.cache
def _data() -> dict[str, dict[str, Any]]:
    content = tomllib.loads((files("pomona.models") / "data" / _DATA).read_text())
    models = cast("dict[str, dict[str, Any]]", content)
    return {name: _with_base(models, name) for name in models}


def _with_base(models: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Returns a model's entry merged over the entry named by its ``like``."""
    own = models[name]
    if "like" not in own:
        return own
    base = _with_base(models, own["like"])
    return {**base, **own, "config": {**base["config"], **own.get("config", {})}}


def _facts(
    name: str, data: Mapping[str, Any], expert_bits: float, other_bits: float, is_default: bool
) -> ModelFacts:
    config = _with_layer_types(data["config"])
    path = Path(str(files("pomona.models") / "data" / _DATA))
    text = TextConfig(config, path)
    embedding = text.number("vocab_size") * text.hidden_size
    outer = LayerFacts(int(embedding * other_bits / 8), embedding, 0)
    latent = "kv_lora_rank" in config
    attention = f"self_attn.{'kv_a_proj_with_mqa' if latent else 'k_proj'}.weight"
    layers: list[LayerFacts] = []
    for index in range(text.layer_count):
        routed = _routed_parameters(config, index)
        other, norms = _attention_parameters(config), 2 * text.hidden_size
        other += _feed_forward_parameters(config, index)
        stored = int((routed * expert_bits + other * other_bits + norms * _NORM_BITS) / 8)
        cache = layer_cache(text, index, [attention])
        inactive = text.inactive_fraction
        layers.append(
            LayerFacts(
                stored,
                routed + other + norms,
                cache.values_per_token,
                int(routed * expert_bits / 8 * inactive),
                int(routed * inactive),
                cache.window,
            )
        )
    return ModelFacts(
        name=name,
        path=path,
        format="data",
        architecture=str(config["model_type"]),
        hidden_size=text.hidden_size,
        vocab_size=text.number("vocab_size"),
        context_length=text.number("max_position_embeddings"),
        tied_embedding=False,
        layers=tuple(layers),
        embedding=outer,
        head=LayerFacts(outer.stored_bytes + 2 * text.hidden_size, embedding + text.hidden_size, 0),
        eos_token_ids=tuple(data.get("eos", ())),
        quantization=str(data["quantization"]) if is_default else f"{other_bits:g} bits a number",
        tokenizer="tokenizer.json",
        has_chat_template=True,
        tool_parser=str(data.get("tool_parser", "")),
        reasoning_parser=str(data.get("reasoning_parser", "")),
        sampling={k: float(v) for k, v in data.get("sampling", {}).items()},
        source=str(data["source"]),
        computed=("layers", "embedding", "head"),
    )


def _with_layer_types(published: Mapping[str, Any]) -> dict[str, Any]:
    """Expands ``alternating_windows`` into mlx-lm's ``layer_types``."""
    config = dict(published)
    if config.pop("alternating_windows", False):
        kinds = ("sliding_attention", "full_attention")
        config["layer_types"] = [kinds[i % 2] for i in range(config["num_hidden_layers"])]
    return config


def _attention_parameters(config: Mapping[str, Any]) -> int:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    rank = config.get("kv_lora_rank")
    if rank:
        rope, nope, value = (
            config["qk_rope_head_dim"],
            config["qk_nope_head_dim"],
            config["v_head_dim"],
        )
        query = config["q_lora_rank"]
        return (
            hidden * query
            + query * heads * (nope + rope)
            + hidden * (rank + rope)
            + rank * heads * (nope + value)
            + heads * value * hidden
        )
    size = config["head_dim"]
    return 2 * hidden * heads * size + 2 * hidden * config["num_key_value_heads"] * size


def _has_experts(config: Mapping[str, Any], layer: int) -> bool:
    if not _expert_count(config) or layer < config.get("first_k_dense_replace", 0):
        return False
    every = config.get("moe_every", 1)
    return layer % every == every - 1


def _expert_count(config: Mapping[str, Any]) -> int:
    names = ("n_routed_experts", "num_experts", "num_local_experts")
    return next((int(config[name]) for name in names if name in config), 0)


def _routed_parameters(config: Mapping[str, Any], layer: int) -> int:
    if not _has_experts(config, layer):
        return 0
    return _expert_count(config) * 3 * config["hidden_size"] * config["moe_intermediate_size"]


def _feed_forward_parameters(config: Mapping[str, Any], layer: int) -> int:
    """Counts what every token uses: the dense layer, or the router and the shared experts."""
    hidden = config["hidden_size"]
    if not _has_experts(config, layer):
        return 3 * hidden * config["intermediate_size"]
    shared = config.get("n_shared_experts", 0) * 3 * hidden * config["moe_intermediate_size"]
    return shared + hidden * _expert_count(config)
