"""``python -m pomona_stage_worker.testing.random_model NAME FOLDER``: writes a random model.

The weights are random, in the architecture of a real family and a few hundred megabytes in
float32, so that memory bandwidth dominates a decode step. The tokenizer is the embedded model's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm import utils as mlx_lm_utils

from pomona.models import EMBEDDED_MODEL, read_facts
from pomona.models.formats.vocabulary import read_vocabulary

CONFIGS: dict[str, dict[str, Any]] = {
    "random-qwen3": {
        "model_type": "qwen3",
        "hidden_size": 640,
        "num_hidden_layers": 18,
        "intermediate_size": 1920,
        "num_attention_heads": 10,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "random-mixtral": {
        "model_type": "mixtral",
        "hidden_size": 512,
        "num_hidden_layers": 10,
        "intermediate_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    },
    "random-gemma3": {
        "model_type": "gemma3_text",
        "hidden_size": 512,
        "num_hidden_layers": 12,
        "intermediate_size": 2048,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 128,
        "query_pre_attn_scalar": 128,
        "sliding_window": 64,
        "sliding_window_pattern": 6,
        "rope_global_base_freq": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_traditional": False,
    },
}
COMMON: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
}


def write_random_model(name: str, folder: Path) -> Path:
    """Writes configuration, tokenizer and bfloat16 weights. Returns ``folder``."""
    embedded = read_facts(EMBEDDED_MODEL)
    config = COMMON | CONFIGS[name] | {"vocab_size": embedded.vocab_size}
    get_classes = mlx_lm_utils._get_classes  # type: ignore[reportPrivateUsage]  # as load_model does
    model_class, arguments_class = get_classes(config)
    mx.random.seed(7)
    model = model_class(arguments_class.from_dict(config))
    tensors: dict[str, mx.array] = dict(tree_flatten(model.parameters()))  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    halves = {key: value.astype(mx.bfloat16) for key, value in tensors.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), halves)
    (folder / "config.json").write_text(json.dumps(config))
    read_vocabulary(embedded.path).save(str(folder / "tokenizer.json"))
    return folder


if __name__ == "__main__":
    write_random_model(sys.argv[1], Path(sys.argv[2]))
