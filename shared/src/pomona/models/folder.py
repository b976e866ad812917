"""Facts from a folder of safetensors, as Hugging Face and mlx-lm lay it out."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import Any, cast

from pomona.errors import ModelError, ModelNotFoundError, ModelUnsupportedError
from pomona.models.facts import LayerFacts, ModelFacts

MAX_HEADER_BYTES = 100 << 20
"""The safetensors format allows no longer header."""

_LAYER = re.compile(r"\blayers\.(\d+)\.|\bh\.(\d+)\.|\bblocks\.(\d+)\.")
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """Raises ModelError naming the file when it is missing or no JSON object."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object")
    return cast("dict[str, Any]", content)


def read_tensor_index(path: Path) -> dict[str, tuple[int, int]]:
    """(bytes, numbers) of every tensor in the folder, from the files' headers."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelNotFoundError(f"{path} holds no safetensors file")
    return {name: size for file in files for name, size in _read_header(file).items()}


def read_folder_facts(path: Path) -> ModelFacts:
    config = read_json(path / "config.json")
    text = cast("dict[str, Any]", config.get("text_config") or config)

    def number(*keys: str, default: int | None = None) -> int:
        for key in keys:
            value = text.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        if default is None:
            raise ModelUnsupportedError(f"{path / 'config.json'} lacks {' or '.join(keys)}")
        return default

    layer_count = number("num_hidden_layers", "n_layers", "n_layer", "num_layers")
    hidden_size = number("hidden_size", "d_model", "n_embd", "dim", "model_dim")
    heads = number("num_attention_heads", "n_heads", "n_head", default=1)
    kv_heads = number("num_key_value_heads", default=heads)
    head_dim = number("head_dim", default=hidden_size // heads)
    latent = number("kv_lora_rank", default=0) + number("qk_rope_head_dim", default=0)
    kv = latent if text.get("kv_lora_rank") else 2 * kv_heads * head_dim

    index = read_tensor_index(path)
    per_layer = [[0, 0] for _ in range(layer_count)]
    embedding, head, embed_seen, head_seen = [0, 0], [0, 0], False, False
    for name, (size, count) in index.items():
        found = _LAYER.search(name)
        if found and (layer := int(next(g for g in found.groups() if g is not None))) < layer_count:
            target = per_layer[layer]
        elif "embed" in name or ".wte." in name:
            target, embed_seen = embedding, True
        else:
            target, head_seen = head, head_seen or "head" in name
        target[0] += size
        target[1] += count
    if not embed_seen:
        raise ModelError(f"{path} holds no token embedding; its safetensors files are incomplete")
    tied = not head_seen
    if tied:
        head = [head[0] + embedding[0], head[1] + embedding[1]]
    return ModelFacts(
        name=path.name,
        path=path,
        format="folder",
        architecture=str(config.get("model_type", "")),
        hidden_size=hidden_size,
        vocab_size=number("vocab_size"),
        context_length=number(
            "max_position_embeddings", "n_positions", "max_seq_len", default=4096
        ),
        tied_embedding=tied,
        layers=tuple(LayerFacts(b, n, kv) for b, n in per_layer),
        embedding=LayerFacts(embedding[0], embedding[1], 0),
        head=LayerFacts(head[0], head[1], 0),
        eos_token_ids=_eos(path, config, text),
    )


def _eos(path: Path, *configs: dict[str, Any]) -> tuple[int, ...]:
    generation = path / "generation_config.json"
    places = [read_json(generation)] if generation.is_file() else []
    for config in (*places, *configs):
        value = config.get("eos_token_id")
        if isinstance(value, int):
            return (value,)
        if isinstance(value, list):
            return tuple(int(x) for x in cast("list[int]", value))
    return ()


def _read_header(path: Path) -> dict[str, tuple[int, int]]:
    """The format: 8 bytes little-endian length, then JSON (huggingface.co/docs/safetensors)."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size):
            raise ModelError(f"{path} is damaged: its header of {length} bytes cannot be")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ModelError(f"{path} is damaged: its header is no JSON") from error
    sizes: dict[str, tuple[int, int]] = {}
    end = 0
    for name, tensor in cast("dict[str, dict[str, Any]]", header).items():
        if name == "__metadata__":
            continue
        begin, end_of_tensor = tensor["data_offsets"]
        end = max(end, end_of_tensor)
        count = prod(tensor["shape"])
        if count * _DTYPE_BITS.get(tensor["dtype"], 8) // 8 > end_of_tensor - begin > 0:
            raise ModelError(f"{path}: tensor {name} is shorter than its shape says")
        sizes[name] = (end_of_tensor - begin, count)
    if path.stat().st_size < 8 + length + end:
        missing = 8 + length + end - path.stat().st_size
        raise ModelError(f"{path} is cut short: {missing} bytes are missing; fetch it again")
    return sizes
