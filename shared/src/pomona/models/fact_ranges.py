"""Ranges of the numbers that a model's files may state, checked once, when the files are read.

A number out of its range is the model's failure: it reaches no loop, allocation or message.
"""

from __future__ import annotations

from pathlib import Path

from pomona.errors import ModelUnsupportedError
from pomona.messages.limits import MAX_LAYERS
from pomona.models.facts import LayerFacts, ModelFacts

MAX_NUMBER = 2**40
"""Maximum of every number of a configuration."""
MAX_HIDDEN_SIZE = 1 << 20
MAX_HEADS = 1 << 16
MAX_VOCABULARY = 1 << 20
"""Maximum number of token ids. The largest published vocabularies have 0.9 million."""
MAX_POSITIONS = 2**31 - 1
"""Maximum context length in tokens."""
MAX_TOKEN_ID = 2**31 - 1
MAX_BYTES = 2**50
"""Maximum size of the tensors of a layer, in bytes, and of their elements."""
MAX_TEXT = 128
"""Maximum length of a name that a file states, in characters."""


def check_range(file: Path, name: str, value: int, least: int, most: int) -> int:
    """Returns ``value``. Raises ModelUnsupportedError naming the file when it is out of range."""
    if not least <= value <= most:
        shown = str(value) if abs(value) < 10**20 else "a number of more than 20 digits"
        raise ModelUnsupportedError(
            f"{file} states {shown} as {name}, which is out of range [{least}, {most}]"
        )
    return value


def check_facts(facts: ModelFacts) -> ModelFacts:
    """Returns ``facts``. Raises ModelUnsupportedError naming the first one out of range."""
    file = facts.path
    check_range(file, "number of layers", facts.layer_count, 1, MAX_LAYERS)
    check_range(file, "hidden size", facts.hidden_size, 1, MAX_HIDDEN_SIZE)
    check_range(file, "size of the vocabulary", facts.vocab_size, 1, MAX_VOCABULARY)
    check_range(file, "context length", facts.context_length, 1, MAX_POSITIONS)
    for token in facts.eos_token_ids:
        check_range(file, "end token id", token, 0, MAX_TOKEN_ID)
    for layer in (*facts.layers, facts.embedding, facts.head):
        _check_layer(file, layer)
    for cut in facts.legal_cuts or ():
        check_range(file, "layer of a cut", cut, 1, facts.layer_count)
    for name in (facts.architecture, facts.quantization, facts.tokenizer, facts.pooling):
        check_range(file, "length of a name", len(name), 0, MAX_TEXT)
    return facts


def _check_layer(file: Path, layer: LayerFacts) -> None:
    for name, value in (
        ("bytes of a layer", layer.stored_bytes),
        ("elements of a layer", layer.parameters),
        ("cache of a layer for a token", layer.kv_values_per_token),
        ("window of a layer", layer.window),
        ("state of a layer", layer.state_values),
    ):
        check_range(file, name, value, 0, MAX_BYTES)
    check_range(file, "unused bytes of a layer", layer.idle_bytes, 0, layer.stored_bytes)
    check_range(file, "unused elements of a layer", layer.idle_parameters, 0, layer.parameters)
