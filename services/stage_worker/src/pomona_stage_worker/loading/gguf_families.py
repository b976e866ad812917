"""Maps GGUF architectures to mlx-lm's models.

Names and metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Loading undoes two
changes of llama.cpp's converter: interleaved rotary halves of q and k (llama), and norm weights
raised by one (gemma).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pomona.errors import ModelUnsupportedError

_GEMMA2_27B_LAYERS, _GEMMA3_27B_LAYERS = 46, 62
"""Layer counts of the two models that scale queries by hidden_size / heads, not by head_dim."""
_GEMMA3_PATTERN = 6
_LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""Placeholder values: the file contains the frequencies."""

_LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA2_LAYER = _LLAMA_LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


class Metadata:
    """Metadata of a file by key without the architecture prefix."""

    def __init__(self, path: Path, kind: str, fields: Mapping[str, Any]) -> None:
        self._path, self._kind, self._fields = path, kind, fields

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelUnsupportedError(f"{self._path} has no metadata {self._kind}.{key}")
        return value

    def get(self, key: str, default: Any = None) -> Any:
        return self._fields.get(f"{self._kind}.{key}", default)


@dataclass(frozen=True, slots=True)
class Family:
    """A GGUF architecture.

    Attributes:
        model_type: mlx-lm's name of the architecture.
        layer: tensor name in a GGUF layer -> mlx-lm module.
        settings: returns config.json entries beyond those of every family.
        interleaved: rotary halves of q and k are interleaved in the file.
        norm_offset: constant added to norm weights in the file.
        wide: activations overflow float16; use bfloat16.
    """

    model_type: str
    layer: Mapping[str, str] = field(default_factory=lambda: _LLAMA_LAYER)
    settings: Callable[[Metadata, Mapping[str, Any]], dict[str, Any]] = lambda _, __: {}
    interleaved: bool = False
    norm_offset: float = 0.0
    wide: bool = False

    def module(self, tensor: str) -> str | None:
        """Returns mlx-lm's module for a tensor, without ``.weight`` or ``.bias``."""
        parts = tensor.split(".")
        if parts[0] == "blk" and len(parts) == 4 and parts[2] in self.layer:
            return f"model.layers.{parts[1]}.{self.layer[parts[2]]}"
        return _OUTER.get(parts[0]) if len(parts) == 2 else None


def family_of(kind: str, path: Path) -> Family:
    """Returns the family of a GGUF architecture; raises ModelUnsupportedError if unknown."""
    family = _FAMILIES.get(kind)
    if family is None:
        known = ", ".join(sorted(_FAMILIES))
        raise ModelUnsupportedError(
            f"{path}: {kind} is not a supported GGUF architecture ({known}); "
            "use the model's safetensors folder"
        )
    return family


def config_of(metadata: Metadata, family: Family, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the equivalent config.json.

    Args:
        shapes: tensor name -> shape.
    """
    heads, hidden = int(metadata.need("attention.head_count")), metadata.need("embedding_length")
    config: dict[str, Any] = {
        "model_type": family.model_type,
        "hidden_size": int(hidden),
        "num_hidden_layers": int(metadata.need("block_count")),
        "intermediate_size": int(metadata.need("feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(metadata.get("attention.head_count_kv", heads)),
        "head_dim": int(metadata.get("attention.key_length", hidden // heads)),
        "rms_norm_eps": float(metadata.need("attention.layer_norm_rms_epsilon")),
        "vocab_size": int(shapes["token_embd.weight"][0]),
        "rope_theta": float(metadata.get("rope.freq_base", 10000.0)),
        "max_position_embeddings": int(metadata.need("context_length")),
        "tie_word_embeddings": "output.weight" not in shapes,
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in shapes,
    }
    scaling = _scaling(metadata)
    if scaling:
        config["rope_scaling"] = scaling
    return config | family.settings(metadata, config | {"shapes": shapes})


def _scaling(metadata: Metadata) -> dict[str, Any] | None:
    kind = metadata.get("rope.scaling.type", "none")
    factor = float(metadata.get("rope.scaling.factor", 1.0))
    if kind in ("none", "") or factor == 1.0:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = int(metadata.need("rope.scaling.original_context_length"))
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    raise ModelUnsupportedError(f"{kind!r} is not a supported RoPE scaling in a GGUF file")


def _llama(metadata: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    if metadata.get("expert_count"):
        raise ModelUnsupportedError(
            "a llama GGUF file with experts is not supported; use the model's safetensors folder"
        )
    return {"rope_scaling": _LLAMA3_SCALING} if "rope_freqs.weight" in config["shapes"] else {}


def _query_scalar(config: Mapping[str, Any], special: int) -> float:
    per_head = config["hidden_size"] / config["num_attention_heads"]
    return per_head if config["num_hidden_layers"] == special else float(config["head_dim"])


def _gemma2(metadata: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "attn_logit_softcapping": float(metadata.get("attn_logit_softcapping", 50.0)),
        "final_logit_softcapping": float(metadata.get("final_logit_softcapping", 30.0)),
        "query_pre_attn_scalar": _query_scalar(config, _GEMMA2_27B_LAYERS),
    }


def _gemma3(metadata: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rope_theta": float(metadata.get("rope.freq_base", 1e6)),
        "rope_local_base_freq": 10000.0,
        "sliding_window": int(metadata.need("attention.sliding_window")),
        "sliding_window_pattern": _GEMMA3_PATTERN,
        "query_pre_attn_scalar": _query_scalar(config, _GEMMA3_27B_LAYERS),
    }


_FAMILIES = {
    "llama": Family("llama", settings=_llama, interleaved=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3", _LLAMA_LAYER | _HEAD_NORMS),
    "gemma": Family("gemma", norm_offset=1.0, wide=True),
    "gemma2": Family("gemma2", _GEMMA2_LAYER, _gemma2, norm_offset=1.0, wide=True),
    "gemma3": Family(
        "gemma3_text", _GEMMA2_LAYER | _HEAD_NORMS, _gemma3, norm_offset=1.0, wide=True
    ),
}
