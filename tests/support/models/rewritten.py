"""SmolLM2's trained weights in the layout of InternLM2.

No second trained model is small enough for the tests. InternLM2 computes the same function as
Llama from other tensors: one matrix holds queries, keys and values of a group of heads, and all
names differ. mlx-lm loads the folder with another model class, and its answers are SmolLM2's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx

from pomona.models import EMBEDDED_MODEL, read_facts
from pomona.models.formats.gguf_header import read_gguf_header
from pomona.models.formats.vocabulary import read_vocabulary
from pomona_stage_worker.loading import read_weights
from pomona_stage_worker.loading.gguf_weights import GgufWeights
from support.models.folders import write_folder

_NAMES = {
    "embed_tokens.": "tok_embeddings.",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_COPIED = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads",
         "num_key_value_heads", "rms_norm_eps", "vocab_size", "rope_theta",
         "max_position_embeddings", "tie_word_embeddings")  # fmt: skip
_QUERIES = re.compile(r"(.*)\.self_attn\.q_proj\.weight")


def write_as_internlm2(folder: Path) -> Path:
    """Writes the embedded model in float16, in two files, with its tokenizer and template."""
    path = read_facts(EMBEDDED_MODEL).path
    config = {name: GgufWeights(path).config[name] for name in _COPIED}
    header = read_gguf_header(path)
    eos = int(header.fields["tokenizer.ggml.eos_token_id"])
    config |= {"model_type": "internlm2", "bias": False, "eos_token_id": eos}
    read = read_weights(EMBEDDED_MODEL, 0, config["num_hidden_layers"], _ignore_progress)
    halves = {name: array.astype(mx.float16) for name, array in read.arrays.items()}
    write_folder(folder, _as_internlm2(halves, config), config, files=2)
    read_vocabulary(path).save(str(folder / "tokenizer.json"))
    template = header.fields["tokenizer.chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def _ignore_progress(done: int, total: int, fetching: bool = False) -> None:
    """Ignores the progress."""


def _as_internlm2(stored: dict[str, mx.array], config: dict[str, Any]) -> dict[str, mx.array]:
    groups = config["num_key_value_heads"]
    size = config["hidden_size"] // config["num_attention_heads"]
    written: dict[str, mx.array] = {}
    for name, tensor in stored.items():
        if found := _QUERIES.fullmatch(name):
            keys, values = (stored[f"{found[1]}.self_attn.{x}_proj.weight"] for x in "kv")
            heads = [x.reshape(groups, -1, size, x.shape[-1]) for x in (tensor, keys, values)]
            joined = mx.concatenate(heads, axis=1).reshape(-1, tensor.shape[-1])
            written[f"{found[1]}.attention.wqkv.weight"] = joined
        elif not name.endswith(("k_proj.weight", "v_proj.weight")):
            for old, new in _NAMES.items():
                name = name.replace(old, new)
            written[name] = tensor
    return written
