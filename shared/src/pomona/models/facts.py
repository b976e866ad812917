"""The facts of a model that planner, gateway and command need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_SAMPLING_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 2**31 - 1),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-6, 100.0),
}


def recommended_sampling(values: Mapping[str, Any]) -> dict[str, float]:
    """The sampling that a model's makers recommend, from what their file says; what lies
    outside of what can be sampled is no recommendation."""
    found: dict[str, float] = {}
    for name, (least, most) in _SAMPLING_RANGES.items():
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if least <= value <= most:
            found[name] = float(value)
    return found


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer.

    Attributes:
        stored_bytes: its tensors as they are in the file.
        parameters: numbers in its tensors.
        kv_values_per_token: numbers that its cache grows by with each token.
        idle_bytes, idle_parameters: of these, what one token does not use: the experts it
            is not routed to.
        window: most tokens that its cache holds; 0 when it holds all.
        state_values: numbers in its cache whatever its length, such as a recurrent state.
    """

    stored_bytes: int
    parameters: int
    kv_values_per_token: int
    idle_bytes: int = 0
    idle_parameters: int = 0
    window: int = 0
    state_values: int = 0

    @property
    def active_bytes(self) -> int:
        """Bytes read to decode one token."""
        return self.stored_bytes - self.idle_bytes

    @property
    def active_parameters(self) -> int:
        return self.parameters - self.idle_parameters


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model, from its configuration and tensor index alone.

    Attributes:
        name: what clients call it.
        path: the folder or the GGUF file; of a model known from data alone, where the data is.
        format: ``data`` when only published figures are known and no file is here.
        architecture: mlx-lm's ``model_type``.
        context_length: tokens that prompt and reply may have together.
        embedding: the token embedding, which the head stage holds.
        head: final norm and vocabulary head, which the tail holds. A tied head counts
            in full, since the tail then holds the embedding too.
        eos_token_ids: tokens that end a reply.
        quantization: how most weights are stored, such as ``bfloat16``, ``4-bit affine,
            groups of 64``, ``mxfp4`` or ``q4_k_m``.
        tokenizer: the file or kind of the tokenizer; empty when there is none.
        tool_parser, reasoning_parser: names of the notations, told from the chat template;
            empty when the model has none.
        sampling: the sampling that its makers recommend, for requests that leave it open.
        legal_cuts: layers before which the model may be cut; None when everywhere.
        pooling: how the embedding of a text is made of its tokens' hidden states, in the words
            of sentence-transformers, such as ``lasttoken``; empty when the model is not for
            that.
        normalized: whether embeddings have length 1.
        unused_code: files that offer code of the model's own, which is never run.
        source: where the figures come from, when not from files.
        computed: the figures that were computed, not published.
    """

    name: str
    path: Path
    format: Literal["gguf", "folder", "data"]
    architecture: str
    hidden_size: int
    vocab_size: int
    context_length: int
    tied_embedding: bool
    layers: tuple[LayerFacts, ...]
    embedding: LayerFacts
    head: LayerFacts
    eos_token_ids: tuple[int, ...]
    quantization: str = ""
    tokenizer: str = ""
    has_chat_template: bool = False
    tool_parser: str = ""
    reasoning_parser: str = ""
    sampling: Mapping[str, float] = field(default_factory=dict[str, float])
    legal_cuts: tuple[int, ...] | None = None
    pooling: str = ""
    normalized: bool = False
    unused_code: tuple[str, ...] = ()
    source: str = ""
    computed: tuple[str, ...] = ()

    @property
    def layer_count(self) -> int:
        return len(self.layers)

    @property
    def stored_bytes(self) -> int:
        """All tensors as stored, a tied head counted once."""
        head = self.head.stored_bytes + (0 if self.tied_embedding else self.embedding.stored_bytes)
        return sum(layer.stored_bytes for layer in self.layers) + head

    @property
    def parameters(self) -> int:
        """All numbers, a tied head counted once."""
        head = self.head.parameters + (0 if self.tied_embedding else self.embedding.parameters)
        return sum(layer.parameters for layer in self.layers) + head

    @property
    def active_bytes(self) -> int:
        """Bytes read to decode one token: of the embedding only a row."""
        return sum(layer.active_bytes for layer in self.layers) + self.head.active_bytes

    @property
    def active_parameters(self) -> int:
        """Numbers that one token uses, the embedding among them once."""
        layers = sum(layer.active_parameters for layer in self.layers)
        return layers + self.parameters - sum(layer.parameters for layer in self.layers)

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that all caches grow by with each token, windows not considered."""
        return sum(layer.kv_values_per_token for layer in self.layers)
