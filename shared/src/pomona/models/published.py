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
from pomona.models.parameter_counts import (
    attention_parameters,
    feed_forward_parameters,
    key_tensor,
    routed_parameters,
    with_layer_types,
)

QUANTIZATIONS = {"4bit": 4.5, "5bit": 5.5, "6bit": 6.5, "8bit": 8.5, "bf16": 16.0}
"""Bits per weight, including scales and biases of groups of 64."""
_DATA = "published.toml"
_NORM_BITS = 16


def published_names() -> list[str]:
    return sorted(_data())


def published_facts(
    name: str, bits: float | None = None, other_bits: float | None = None
) -> ModelFacts | None:
    """Returns the facts of a known model, or None for an unknown name or quantization.

    Args:
        name: ``deepseek-v3``, for example, or ``deepseek-v3:8bit`` to select a quantization.
        bits: bits per weight, including scales, instead of the default quantization's.
        other_bits: the same of all weights but routed experts; ``bits`` when None.
    """
    model, _, quantization = name.lower().partition(":")
    data = _data().get(model)
    if data is None or (quantization and quantization not in QUANTIZATIONS):
        return None
    if bits is None and quantization:
        bits = QUANTIZATIONS[quantization]
    expert_bits = float(data["expert_bits"]) if bits is None else bits
    if other_bits is None:
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
    config = with_layer_types(data["config"])
    path = Path(str(files("pomona.models") / "data" / _DATA))
    text = TextConfig(config, path)
    embedding = text.number("vocab_size") * text.hidden_size
    outer = LayerFacts(int(embedding * other_bits / 8), embedding, 0)
    layers: list[LayerFacts] = []
    for index in range(text.layer_count):
        routed = routed_parameters(config, index)
        other, norms = attention_parameters(config, index), 2 * text.hidden_size
        other += feed_forward_parameters(config, index)
        stored = int((routed * expert_bits + other * other_bits + norms * _NORM_BITS) / 8)
        cache = layer_cache(text, index, [key_tensor(config, index)])
        inactive = text.inactive_fraction
        layers.append(
            LayerFacts(
                stored,
                routed + other + norms,
                cache.values_per_token,
                int(routed * expert_bits / 8 * inactive),
                int(routed * inactive),
                cache.window,
                cache.state_values,
                cache.latent,
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
        tied_embedding=bool(config.get("tie_word_embeddings")),
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
