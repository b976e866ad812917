"""Builds a SentencePiece BPE tokenizer from GGUF metadata (llama 1 and 2, mistral, gemma).

The metadata has pieces with scores instead of merges. The adjacent pair whose joined piece has the
highest score is merged first
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, ``tokenizer.ggml.model`` ``llama``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers

_SPACE = "▁"
_UNKNOWN = 2
"""Token type of the unknown token."""


def sentencepiece_backend(fields: Mapping[str, Any]) -> Backend:
    """Builds the tokenizer without added tokens. Characters without a piece become byte pieces."""
    pieces: list[str] = fields.get("tokenizer.ggml.tokens", [])
    scores: list[float] = fields.get("tokenizer.ggml.scores", [])
    types: list[int] = fields.get("tokenizer.ggml.token_type", [])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    unknown = next(
        (piece for piece, kind in zip(pieces, types, strict=False) if kind == _UNKNOWN), None
    )
    backend = Backend(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(vocabulary, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[Any] = [normalizers.Replace(" ", _SPACE)]
    texts: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if fields.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend(_SPACE))
        texts.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(spaces)
    backend.decoder = decoders.Sequence(texts)
    return backend


def _merges(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Returns every pair of pieces that joins to a third, highest score first."""
    found: list[tuple[float, int, str, str]] = []
    for piece, number in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-scores[number], number, left, right))
    return [(left, right) for _, _, left, right in sorted(found)]
