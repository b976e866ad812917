"""Facts from a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from pomona.errors import ModelError, ModelUnsupportedError
from pomona.models.facts import LayerFacts, ModelFacts
from pomona.models.gguf_header import read_gguf_header

_BLOCK = re.compile(r"^blk\.(\d+)\.")


def open_gguf(path: Path) -> GGUFReader:
    """Raises ModelError when the file is damaged."""
    try:
        return GGUFReader(path)
    except Exception as error:  # the reader raises whatever numpy does on a damaged file
        raise ModelError(
            f"{path} cannot be read as GGUF ({error}): it is damaged or incomplete; "
            "copy or download it again"
        ) from error


def field(reader: GGUFReader, key: str, default: Any = None) -> Any:
    """A metadata value, or ``default`` when the file has none."""
    found = reader.fields.get(key)
    return default if found is None else found.contents()


def read_gguf_facts(path: Path, name: str) -> ModelFacts:
    header = read_gguf_header(path)
    kind = header.fields.get("general.architecture")
    if kind is None:
        raise ModelUnsupportedError(f"{path} names no architecture (general.architecture)")

    def need(key: str) -> Any:
        value = header.fields.get(f"{kind}.{key}")
        if value is None:
            raise ModelUnsupportedError(f"{path} lacks the metadata {kind}.{key}")
        return value

    layer_count = int(need("block_count"))
    hidden_size = int(need("embedding_length"))
    heads = int(need("attention.head_count"))
    kv_heads = int(header.fields.get(f"{kind}.attention.head_count_kv", heads))
    key_length = int(header.fields.get(f"{kind}.attention.key_length", hidden_size // heads))
    value_length = int(header.fields.get(f"{kind}.attention.value_length", key_length))

    stored: dict[str, tuple[int, int]] = {
        tensor.name: (tensor.stored_bytes, tensor.elements) for tensor in header.tensors
    }
    kv = kv_heads * (key_length + value_length)
    layers = tuple(
        _facts((v for k, v in stored.items() if _block(k) == i), kv) for i in range(layer_count)
    )
    if any(layer.parameters == 0 for layer in layers):
        raise ModelError(f"{path} lacks the tensors of some of its {layer_count} layers")
    if "token_embd.weight" not in stored:
        raise ModelError(f"{path} lacks the tensor token_embd.weight")
    tied = "output.weight" not in stored
    embedding = _facts([stored["token_embd.weight"]])
    tail = [v for k, v in stored.items() if k.startswith("output")]
    head = _facts([*tail, stored["token_embd.weight"]] if tied else tail)
    eos = header.fields.get("tokenizer.ggml.eos_token_id")
    eot = header.fields.get("tokenizer.ggml.eot_token_id")
    return ModelFacts(
        name=name,
        path=path,
        format="gguf",
        architecture=str(kind),
        hidden_size=hidden_size,
        vocab_size=embedding.parameters // hidden_size,
        context_length=int(need("context_length")),
        tied_embedding=tied,
        layers=layers,
        embedding=embedding,
        head=head,
        eos_token_ids=tuple(sorted({int(x) for x in (eos, eot) if x is not None})),
    )


def _block(tensor: str) -> int | None:
    found = _BLOCK.match(tensor)
    return int(found[1]) if found else None


def _facts(tensors: Iterable[tuple[int, int]], kv: int = 0) -> LayerFacts:
    sizes = list(tensors)
    return LayerFacts(sum(b for b, _ in sizes), sum(n for _, n in sizes), kv)
