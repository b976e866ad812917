"""Facts about a model for planner, gateway and command line."""

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
    """Returns the recommended sampling parameters among ``values``, without those out of range."""
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
    """Sizes of one layer.

    Attributes:
        stored_bytes: bytes of its tensors in the file.
        parameters: number of elements in its tensors.
        kv_values_per_token: elements that its KV cache grows by with each token.
        idle_bytes, idle_parameters: the part of ``stored_bytes`` and ``parameters`` that one
            token does not use: experts it is not routed to.
        window: limit of tokens in its cache; 0 when there is none.
        state_values: elements in its cache at any length, for example a recurrent state.
        latent: whether attention works on a compressed key and value (MLA).
    """

    stored_bytes: int
    parameters: int
    kv_values_per_token: int
    idle_bytes: int = 0
    idle_parameters: int = 0
    window: int = 0
    state_values: int = 0
    latent: bool = False

    @property
    def attention(self) -> Literal["full", "latent", "linear", "sliding"]:
        """Kind of its attention; ``linear`` includes every layer with only a recurrent state."""
        if self.latent:
            return "latent"
        if self.state_values and not self.kv_values_per_token:
            return "linear"
        return "sliding" if self.window else "full"

    @property
    def active_bytes(self) -> int:
        """Bytes read to decode one token."""
        return self.stored_bytes - self.idle_bytes

    @property
    def active_parameters(self) -> int:
        return self.parameters - self.idle_parameters


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model, described from its configuration and tensor index alone.

    Attributes:
        name: name that clients use.
        path: the folder or GGUF file; the data file for a model known from published figures.
        format: ``data`` when only published figures are known, without model files.
        architecture: mlx-lm's ``model_type``.
        context_length: limit of prompt and reply tokens together.
        embedding: the token embedding, held by the head stage.
        head: final norm and vocabulary head, held by the tail. A tied head counts in full,
            because the tail then holds the embedding too.
        eos_token_ids: tokens that end a reply.
        quantization: storage of most weights, for example ``bfloat16``, ``4-bit affine, groups of
            64``, ``mxfp4`` or ``q4_k_m``.
        tokenizer: file or kind of the tokenizer; empty when there is none.
        tool_parser, reasoning_parser: notations found in the chat template; empty when the
            model has none.
        sampling: sampling parameters that the authors recommend, used as defaults.
        legal_cuts: layers before which the model may be cut; None for all layers.
        pooling: pooling mode of an embedding model, as sentence-transformers names it, for
            example ``lasttoken``; empty for other models.
        normalized: whether embeddings are scaled to length 1.
        unused_code: files with custom code of the model, which is never run.
        next_token_layers: layers that guess further tokens, by the configuration.
        has_next_token_weights: whether the files have the weights of such layers.
        source: origin of published figures; empty when they come from files.
        computed: names of the figures that were computed, not published.
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
    next_token_layers: int = 0
    has_next_token_weights: bool = False
    source: str = ""
    computed: tuple[str, ...] = ()

    @property
    def layer_count(self) -> int:
        return len(self.layers)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors in the file. A tied head counts once."""
        head = self.head.stored_bytes + (0 if self.tied_embedding else self.embedding.stored_bytes)
        return sum(layer.stored_bytes for layer in self.layers) + head

    @property
    def parameters(self) -> int:
        """Number of parameters. A tied head counts once."""
        head = self.head.parameters + (0 if self.tied_embedding else self.embedding.parameters)
        return sum(layer.parameters for layer in self.layers) + head

    @property
    def active_bytes(self) -> int:
        """Bytes read to decode one token. The single embedding row is left out."""
        return sum(layer.active_bytes for layer in self.layers) + self.head.active_bytes

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses, including the embedding once."""
        layers = sum(layer.active_parameters for layer in self.layers)
        return layers + self.parameters - sum(layer.parameters for layer in self.layers)

    @property
    def kv_values_per_token(self) -> int:
        """Elements that all KV caches grow by with each token. Ignores windows."""
        return sum(layer.kv_values_per_token for layer in self.layers)
