"""Reads model facts from a GGUF file.

The metadata keys are specified at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pomona.errors import ModelError, ModelUnsupportedError
from pomona.messages.limits import MAX_LAYERS
from pomona.models.architecture import whole_number
from pomona.models.chat_notation import notation_of_template
from pomona.models.fact_ranges import (
    MAX_HEADS,
    MAX_HIDDEN_SIZE,
    MAX_NUMBER,
    MAX_POSITIONS,
    check_range,
)
from pomona.models.facts import LayerFacts, ModelFacts, recommended_sampling
from pomona.models.formats.gguf_header import GgufHeader, GgufTensor, read_gguf_header

_SAMPLING = {
    "temperature": "temp",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
"""Names of sampling parameters under the key ``general.sampling``."""
_BLOCK = re.compile(r"^blk\.(\d+)\.")


def read_gguf_facts(path: Path, name: str) -> ModelFacts:
    """Reads the facts of a GGUF file. Raises ModelError naming the missing key or tensor."""
    header = read_gguf_header(path, lists=False)
    kind = header.fields.get("general.architecture")
    if kind is None:
        raise ModelUnsupportedError(f"{path} lacks the metadata general.architecture")

    def required(key: str) -> Any:
        value = header.fields.get(f"{kind}.{key}")
        if value is None:
            raise ModelUnsupportedError(f"{path} lacks the metadata {kind}.{key}")
        return value

    def optional(key: str, default: Any) -> Any:
        return header.fields.get(f"{kind}.{key}", default)

    def number(key: str, default: int | None = None, least: int = 1, most: int = MAX_NUMBER) -> int:
        value = whole_number(required(key) if default is None else optional(key, default))
        if value is None:
            raise ModelUnsupportedError(f"{path}: {kind}.{key} is not a whole number")
        return check_range(path, f"{kind}.{key}", value, least, most)

    layer_count = number("block_count", most=MAX_LAYERS)
    hidden_size = number("embedding_length", most=MAX_HIDDEN_SIZE)
    heads = number("attention.head_count", most=MAX_HEADS)
    kv_heads = number("attention.head_count_kv", heads, most=MAX_HEADS)
    key_length = number("attention.key_length", hidden_size // heads)
    value_length = number("attention.value_length", key_length)
    experts = number("expert_count", 0, least=0)
    used_experts = number("expert_used_count", experts, least=0)
    active_fraction = min(1.0, used_experts / experts) if experts else 1.0

    context_length = number("context_length", most=MAX_POSITIONS)

    kv = kv_heads * (key_length + value_length)
    blocks: dict[int, list[GgufTensor]] = {}
    for tensor in header.tensors:
        if found := _BLOCK.match(tensor.name):
            blocks.setdefault(int(found[1]), []).append(tensor)
    missing = [str(i) for i in range(layer_count) if i not in blocks]
    if missing:
        raise ModelError(f"{path} lacks the tensors of layer {', '.join(missing)}")
    by_name = {tensor.name: tensor for tensor in header.tensors}
    if "token_embd.weight" not in by_name:
        raise ModelError(f"{path} lacks the tensor token_embd.weight")
    tied = "output.weight" not in by_name
    embedding = _layer_facts([by_name["token_embd.weight"]])
    tail = [tensor for name, tensor in by_name.items() if name.startswith("output")]
    head = _layer_facts([*tail, by_name["token_embd.weight"]] if tied else tail)
    eos = header.fields.get("tokenizer.ggml.eos_token_id")
    eot = header.fields.get("tokenizer.ggml.eot_token_id")
    eom = header.fields.get("tokenizer.ggml.eom_token_id")
    template = str(header.fields.get("tokenizer.chat_template", ""))
    tools, reasoning = notation_of_template(template)
    return ModelFacts(
        name=name,
        path=path,
        format="gguf",
        architecture=str(kind),
        hidden_size=hidden_size,
        vocab_size=embedding.parameters // hidden_size,
        context_length=context_length,
        tied_embedding=tied,
        layers=tuple(_layer_facts(blocks[i], kv, active_fraction) for i in range(layer_count)),
        embedding=embedding,
        head=head,
        eos_token_ids=tuple(sorted({int(x) for x in (eos, eot, eom) if x is not None})),
        quantization=_quantization(header),
        tokenizer=str(header.fields.get("tokenizer.ggml.model", "")),
        has_chat_template=bool(template),
        tool_parser=tools,
        reasoning_parser=reasoning,
        sampling=recommended_sampling(
            {name: header.fields.get(f"general.sampling.{key}") for name, key in _SAMPLING.items()}
        ),
    )


def _quantization(header: GgufHeader) -> str:
    """Returns the declared file type, for example ``q4_k_m``, else the type with the most bytes."""
    from gguf.constants import LlamaFileType

    named = {int(kind): kind.name for kind in LlamaFileType if kind is not LlamaFileType.GUESSED}
    kind = header.fields.get("general.file_type")
    if isinstance(kind, int) and kind in named:
        return named[kind].partition("_")[2].lower()
    sizes: dict[str, int] = {}
    for tensor in header.tensors:
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.stored_bytes
    return max(sizes, key=lambda kind: sizes[kind], default="").lower()


def _layer_facts(
    tensors: Iterable[GgufTensor], kv: int = 0, active_fraction: float = 1.0
) -> LayerFacts:
    tensors = list(tensors)
    stored = sum(tensor.resident_bytes for tensor in tensors)
    count = sum(tensor.elements for tensor in tensors)
    idle_bytes = idle = 0.0
    for tensor in tensors:
        if "_exps." in tensor.name:
            idle_bytes += (1 - active_fraction) * tensor.resident_bytes
            idle += (1 - active_fraction) * tensor.elements
    latent = any("attn_kv_a" in tensor.name for tensor in tensors)
    return LayerFacts(stored, count, kv, round(idle_bytes), round(idle), latent=latent)
