"""Builds a model's tokenizer from its folder or its GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from pomona.errors import ModelError, ModelUnsupportedError
from pomona.models.fact_ranges import MAX_VOCABULARY
from pomona.models.formats.gguf_header import read_gguf_header
from pomona.models.formats.safetensors_index import MAX_JSON_BYTES
from pomona.models.formats.sentencepiece import sentencepiece_backend

CONTROL, USER_DEFINED = 3, 4
"""Token types (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _pre_tokenizer(name: str) -> Any:
    """Returns the pre-tokenizer for ``tokenizer.ggml.pre``."""
    match name:
        case "gpt-2" | "default":
            return pre_tokenizers.ByteLevel(add_prefix_space=False)
        case "smollm":
            return pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
        case "llama-bpe" | "llama3" | "llama-v3":
            return _split(_WORDS % 3)
        case "qwen2" | "deepseek-r1-qwen":
            return _split(_WORDS.replace("{1,%d}", ""))
        case _:
            raise ModelUnsupportedError(
                f"the pre-tokenizer {name!r} of this GGUF file is not supported; "
                "use the model as a folder with tokenizer.json"
            )


def read_vocabulary(path: Path) -> Backend:
    """Builds the tokenizer of a folder or GGUF file. Raises ModelError naming the file."""
    return (
        folder_backend(path) if path.is_dir() else gguf_backend(read_gguf_header(path).fields, path)
    )


def folder_backend(path: Path) -> Backend:
    """Builds the tokenizer from the folder's tokenizer.json."""
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ModelUnsupportedError(
            f"{path} has no tokenizer.json; save the model's fast tokenizer there"
        )
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ModelUnsupportedError(f"{file} has more than {MAX_JSON_BYTES} bytes")
    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # the library raises bare exceptions
        raise ModelError(f"{file} cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def gguf_backend(fields: Mapping[str, Any], path: Path) -> Backend:
    """Builds the tokenizer from GGUF metadata. Raises ModelUnsupportedError with the reason."""
    kind = fields.get("tokenizer.ggml.model")
    tokens: list[str] = fields.get("tokenizer.ggml.tokens", [])
    types: list[int] = fields.get("tokenizer.ggml.token_type", [])
    if len(tokens) > MAX_VOCABULARY:
        raise ModelUnsupportedError(
            f"{path} has {len(tokens)} tokens; at most {MAX_VOCABULARY} are supported"
        )
    match kind:
        case "gpt2":
            backend = _byte_level(fields, tokens)
        case "llama":
            backend = sentencepiece_backend(fields)
        case _:
            raise ModelUnsupportedError(
                f"the tokenizer kind {kind!r} of {path} is not supported, only 'gpt2' (byte-level "
                "BPE) and 'llama' (SentencePiece); use the model as a folder with tokenizer.json"
            )
    for kind_id, special in ((CONTROL, True), (USER_DEFINED, False)):
        found = [tokens[i] for i, value in enumerate(types) if value == kind_id]
        added = [AddedToken(text, special=special, normalized=False) for text in found]
        (backend.add_special_tokens if special else backend.add_tokens)(added)
    return backend


def _byte_level(fields: Mapping[str, Any], tokens: list[str]) -> Backend:
    merges: list[str] = fields.get("tokenizer.ggml.merges", [])
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    backend = Backend(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=pairs))
    backend.pre_tokenizer = _pre_tokenizer(fields.get("tokenizer.ggml.pre", "gpt-2"))
    backend.decoder = decoders.ByteLevel()
    return backend
