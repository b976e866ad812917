"""Writes small models as folders of safetensors, sharded as on the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 8,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "vocab_size": 256,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


def tensors_of(model: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))  # type: ignore[arg-type]


def write_folder(
    folder: Path,
    tensors: Mapping[str, mx.array],
    config: Mapping[str, Any] = CONFIG,
    files: int = 1,
) -> Path:
    """Writes ``tensors``, in their order, to ``files`` files; more than one get an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    names = list(tensors)
    if files == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), dict(tensors))
        return folder
    weight_map: dict[str, str] = {}
    each = -(-len(names) // files)
    for number in range(files):
        part = names[number * each : (number + 1) * each]
        file = f"model-{number + 1:05}-of-{files:05}.safetensors"
        mx.save_safetensors(str(folder / file), {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
