"""Reads model facts from a folder of safetensors in the layout of Hugging Face and mlx-lm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pomona.errors import ModelError, ModelUnsupportedError
from pomona.models.architecture import (
    NO_CACHE,
    LayerCache,
    TextConfig,
    layer_cache,
    whole_number,
)
from pomona.models.chat_notation import notation_of_template
from pomona.models.fact_ranges import MAX_POSITIONS, MAX_VOCABULARY
from pomona.models.facts import LayerFacts, ModelFacts, recommended_sampling
from pomona.models.formats.chat_templates import read_chat_templates
from pomona.models.formats.safetensors_index import TensorPlace, read_json, read_tensor_places
from pomona.models.legal_cuts import legal_cuts
from pomona.models.pooling_config import read_pooling

__all__ = ["read_folder_facts", "read_json", "reject_custom_code"]

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_HEAD = re.compile(r"head|(?:^|\.)output\.weight$")
_NOT_TEXT = re.compile(r"vision|visual|audio|projector|image|vit\.")
_ROUTED = re.compile(r"\bexperts\.|switch_mlp\.|block_sparse_moe\.experts")
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F8_E4M3": "fp8"}
_GROUP_SIZES = {"mxfp4": 32, "mxfp8": 32, "nvfp4": 16}
_NEXT_TOKEN = re.compile(r"(?:^|\.)(?:mtp|mtp_layers)\.|\.(?:eh_proj|enorm|hnorm)\.weight$")
_NEXT_TOKEN_COUNTS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
_CODE_KEYS = {"auto_map", "custom_pipelines", "trust_remote_code"}
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
DEFAULT_POSITIONS = 4096
"""Context length of a model whose configuration states none."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tiktoken.model")


def reject_custom_code(config: Mapping[str, Any], file: Path) -> None:
    """Raises ModelUnsupportedError when the model requires its own code."""
    if "model_file" in config:
        raise ModelUnsupportedError(
            f"{file} asks to run {config['model_file']}, and Pomona never runs a model's own "
            "code; use a model whose architecture mlx-lm supports"
        )


def read_folder_facts(path: Path) -> ModelFacts:
    """Reads the facts of a folder. Raises ModelError naming the offending file or tensor."""
    file = path / "config.json"
    config = read_json(file)
    reject_custom_code(config, file)
    text = TextConfig(config, file)
    places = read_tensor_places(path)
    sizes = _TensorSizes(config, places)

    layers: list[list[str]] = [[] for _ in range(text.layer_count)]
    embedding: list[str] = []
    head: list[str] = []
    for name in places:
        found = _LAYER.search(name)
        if _NOT_TEXT.search(name):
            continue
        if found:
            if (layer := int(found[1])) < len(layers):
                layers[layer].append(name)
        elif "embed" in name or name.startswith("wte.") or ".wte." in name:
            embedding.append(name)
        else:
            head.append(name)
    if not embedding:
        raise ModelError(f"{path} lacks a token embedding; its safetensors files are incomplete")
    tied = not any(_HEAD.search(name) for name in head)
    caches = [layer_cache(text, i, names) for i, names in enumerate(layers)]
    inactive = text.inactive_fraction
    templates = "\n".join(read_chat_templates(path).values())
    tools, reasoning = notation_of_template(templates)
    pooling, normalized = read_pooling(path)
    return ModelFacts(
        name=path.name,
        path=path,
        format="folder",
        architecture=text.family,
        hidden_size=text.hidden_size,
        vocab_size=text.number("vocab_size", "padded_vocab_size", least=1, most=MAX_VOCABULARY),
        context_length=text.number(
            *_POSITIONS, default=DEFAULT_POSITIONS, least=1, most=MAX_POSITIONS
        ),
        tied_embedding=tied,
        layers=tuple(
            sizes.facts(names, inactive, x) for names, x in zip(layers, caches, strict=True)
        ),
        embedding=sizes.facts(embedding),
        head=sizes.facts([*head, *embedding] if tied else head),
        eos_token_ids=_eos(path, config, text.values),
        quantization=_quantization(config, places),
        tokenizer=next((name for name in _TOKENIZERS if (path / name).is_file()), ""),
        has_chat_template=bool(templates),
        tool_parser=tools,
        reasoning_parser=reasoning,
        sampling=_sampling(path),
        legal_cuts=legal_cuts(text),
        pooling=pooling,
        normalized=normalized,
        unused_code=_unused_code(path),
        next_token_layers=text.number(*_NEXT_TOKEN_COUNTS, default=0),
        has_next_token_weights=any(_NEXT_TOKEN.search(name) for name in places),
    )


class _TensorSizes:
    """Computes bytes in memory and parameter counts of a model's tensors.

    The parameters of a quantized matrix are its scales times the group size. fp8 tensors count with
    the size to which mlx-lm unpacks them on load.
    """

    def __init__(self, config: Mapping[str, Any], places: Mapping[str, TensorPlace]) -> None:
        self._places = places
        self._quantization = cast("dict[str, Any]", config.get("quantization") or {})
        own = cast("dict[str, Any]", config.get("quantization_config") or {})
        self._unpacks = own.get("quant_method") == "fp8" and own.get("scale_fmt") != "ue8m0"

    def facts(
        self,
        names: list[str],
        inactive_fraction: float = 0.0,
        cache: LayerCache = NO_CACHE,
    ) -> LayerFacts:
        stored = count = idle_bytes = idle = 0
        for name in names:
            size, numbers = self._size(name)
            stored += size
            count += numbers
            if _ROUTED.search(name) and "shared" not in name:
                idle_bytes += size
                idle += numbers
        idle_bytes, idle = int(idle_bytes * inactive_fraction), int(idle * inactive_fraction)
        return LayerFacts(
            stored,
            count,
            cache.values_per_token,
            idle_bytes,
            idle,
            cache.window,
            cache.state_values,
            cache.latent,
        )

    def _size(self, name: str) -> tuple[int, int]:
        place = self._places[name]
        module, _, kind = name.rpartition(".")
        if kind in ("scales", "biases", "weight_scale_inv") or name.endswith("_scales"):
            return (0 if kind == "weight_scale_inv" and self._unpacks else place.stored_bytes), 0
        if name.endswith("_blocks"):  # OpenAI's mxfp4: two elements per byte
            return place.stored_bytes, 2 * place.elements
        scales = self._places.get(f"{module}.scales") if kind == "weight" else None
        if scales is not None:
            return place.stored_bytes, scales.elements * self._group_size(module)
        unpacked = self._unpacks and place.dtype == "F8_E4M3"
        return place.stored_bytes * (2 if unpacked else 1), place.elements

    def _group_size(self, module: str) -> int:
        own = self._quantization.get(module)
        options = cast("dict[str, Any]", own) if isinstance(own, dict) else self._quantization
        default = _GROUP_SIZES.get(str(options.get("mode")), 64)
        return int(options.get("group_size", self._quantization.get("group_size", default)))


def _quantization(config: Mapping[str, Any], places: Mapping[str, TensorPlace]) -> str:
    own = cast("dict[str, Any]", config.get("quantization") or {})
    if own:
        mode, bits, group = own.get("mode", "affine"), own.get("bits"), own.get("group_size")
        mixed = any(isinstance(x, dict) and x.get("bits", bits) != bits for x in own.values())
        return f"{bits}-bit {mode}, groups of {group}" + (", mixed" if mixed else "")
    foreign = cast("dict[str, Any]", config.get("quantization_config") or {})
    if foreign:
        return str(foreign.get("quant_method", "unknown"))
    sizes: dict[str, int] = {}
    for place in places.values():
        sizes[place.dtype] = sizes.get(place.dtype, 0) + place.stored_bytes
    dtype = max(sizes, key=lambda x: sizes[x], default="")
    return _DTYPES.get(dtype, dtype.lower())


def _unused_code(path: Path) -> tuple[str, ...]:
    """Returns files that other software might run: scripts, and configurations naming classes."""
    scripts = [file.name for file in path.glob("*.py")]
    offering = [
        name
        for name in ("config.json", "tokenizer_config.json")
        if (path / name).is_file() and read_json(path / name).keys() & _CODE_KEYS
    ]
    return tuple(sorted([*scripts, *offering]))


def _sampling(path: Path) -> dict[str, float]:
    file = path / "generation_config.json"
    content = read_json(file) if file.is_file() else {}
    if content.get("do_sample") is False:
        return {"temperature": 0.0}
    return recommended_sampling(content)


def _eos(path: Path, *configs: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the end tokens of the generation config and of the configs, each once."""
    generation = path / "generation_config.json"
    places = [read_json(generation)] if generation.is_file() else []
    found: list[int] = []
    for config in (*places, *configs):
        value = config.get("eos_token_id")
        ids = cast("list[Any]", value) if isinstance(value, list) else [value]
        found += [number for x in ids if (number := whole_number(x)) is not None]
    return tuple(dict.fromkeys(found))
