"""The facts of a model that planner, gateway and command need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer.

    Attributes:
        stored_bytes: its tensors as they are in the file.
        parameters: numbers in its tensors.
        kv_values_per_token: numbers that its cache grows by with each token.
    """

    stored_bytes: int
    parameters: int
    kv_values_per_token: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model, from its configuration and tensor index alone.

    Attributes:
        name: what clients call it.
        path: the folder or the GGUF file.
        architecture: mlx-lm's ``model_type``.
        context_length: tokens that prompt and reply may have together.
        embedding: the token embedding, which the head stage holds.
        head: final norm and vocabulary head, which the tail holds. A tied head counts
            in full, since the tail then holds the embedding too.
        eos_token_ids: tokens that end a reply.
    """

    name: str
    path: Path
    format: Literal["gguf", "folder"]
    architecture: str
    hidden_size: int
    vocab_size: int
    context_length: int
    tied_embedding: bool
    layers: tuple[LayerFacts, ...]
    embedding: LayerFacts
    head: LayerFacts
    eos_token_ids: tuple[int, ...]

    @property
    def layer_count(self) -> int:
        return len(self.layers)

    @property
    def stored_bytes(self) -> int:
        """All tensors as stored, a tied head counted once."""
        head = 0 if self.tied_embedding else self.head.stored_bytes
        return sum(layer.stored_bytes for layer in self.layers) + self.embedding.stored_bytes + head
