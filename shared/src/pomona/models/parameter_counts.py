"""Parameter counts of a published configuration's layers, with the shapes of mlx-lm's classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_layer_types(published: Mapping[str, Any]) -> dict[str, Any]:
    """Expands ``alternating_windows`` into mlx-lm's ``layer_types``."""
    config = dict(published)
    if config.pop("alternating_windows", False):
        kinds = ("sliding_attention", "full_attention")
        config["layer_types"] = [kinds[i % 2] for i in range(config["num_hidden_layers"])]
    return config


def key_tensor(config: Mapping[str, Any], layer: int) -> str:
    """Returns the name of the tensor by which ``layer_cache`` knows the layer's attention."""
    if _is_linear(config, layer):
        return "linear_attn.A_log"
    latent = "kv_lora_rank" in config
    return f"self_attn.{'kv_a_proj_with_mqa' if latent else 'k_proj'}.weight"


def attention_parameters(config: Mapping[str, Any], layer: int) -> int:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if _is_linear(config, layer):
        return _linear_attention_parameters(config)
    if config.get("kv_lora_rank"):
        return _latent_attention_parameters(config)
    size = config["head_dim"]
    queries = (3 if config.get("attn_output_gate") else 2) * hidden * heads * size
    return queries + 2 * hidden * config["num_key_value_heads"] * size


def routed_parameters(config: Mapping[str, Any], layer: int) -> int:
    """Counts the parameters of all experts that a router selects from."""
    if not _has_experts(config, layer):
        return 0
    return _expert_count(config) * 3 * config["hidden_size"] * config["moe_intermediate_size"]


def feed_forward_parameters(config: Mapping[str, Any], layer: int) -> int:
    """Counts what every token uses: the dense layer, or the router and the shared experts."""
    hidden = config["hidden_size"]
    if not _has_experts(config, layer):
        return 3 * hidden * config["intermediate_size"]
    width = config.get("n_shared_experts", 0) * config["moe_intermediate_size"]
    width += config.get("shared_expert_intermediate_size", 0)
    return 3 * hidden * width + hidden * _expert_count(config)


def _is_linear(config: Mapping[str, Any], layer: int) -> bool:
    every = config.get("full_attention_interval", 1)
    return layer % every != every - 1


def _linear_attention_parameters(config: Mapping[str, Any]) -> int:
    """Counts the projections of a gated delta net: q, k, v, output gate, two gates, output."""
    hidden, heads = config["hidden_size"], config["linear_num_value_heads"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = heads * config["linear_value_head_dim"]
    return hidden * (2 * keys + 2 * values + 2 * heads) + values * hidden


def _latent_attention_parameters(config: Mapping[str, Any]) -> int:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    rank, query = config["kv_lora_rank"], config["q_lora_rank"]
    rope, nope = config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    value = config["v_head_dim"]
    return (
        hidden * query
        + query * heads * (nope + rope)
        + hidden * (rank + rope)
        + rank * heads * (nope + value)
        + heads * value * hidden
    )


def _has_experts(config: Mapping[str, Any], layer: int) -> bool:
    if not _expert_count(config) or layer < config.get("first_k_dense_replace", 0):
        return False
    every = config.get("moe_every", 1)
    return layer % every == every - 1


def _expert_count(config: Mapping[str, Any]) -> int:
    names = ("n_routed_experts", "num_experts", "num_local_experts")
    return next((int(config[name]) for name in names if name in config), 0)
