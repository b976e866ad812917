"""A small random qwen3 with the vocabulary of the tiny tokenizer."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models import qwen3

from support.models.tiny_model import end_id, tiny_backend

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "vocab_size": tiny_backend().get_vocab_size(),
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "eos_token_id": end_id(),
}


def random_model(config: dict[str, Any] = CONFIG) -> Any:
    """Returns the model with the same float32 weights at every call."""
    mx.random.seed(8)
    model = qwen3.Model(qwen3.ModelArgs.from_dict(config))

    def drawn(array: mx.array) -> mx.array:
        return mx.random.normal(array.shape) * 0.3 if array.ndim > 1 else array

    model.apply(drawn)
    mx.eval(model.parameters())
    model.eval()
    return model
