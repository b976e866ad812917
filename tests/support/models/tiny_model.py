"""A model folder of a few kilobytes: a byte-level tokenizer, a chat template, no weights.

Token ids 0 to 255 are the bytes in the order of the byte-level alphabet. A few merges and the
special tokens follow, so a test can easily state the ids of a text.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from pomona_gateway.text import Tokenizer
from pomona_gateway.text.vocabulary import BYTE_ALPHABET
from support.doubles.scripted_head import Script

CONTEXT_LENGTH = 512
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|begin|>' + message.role + '\\n' + message.content + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|begin|>assistant\\n' }}{% endif %}"
)


def tiny_backend(cut_by: str = "") -> Backend:
    characters = sorted(BYTE_ALPHABET, key=lambda character: BYTE_ALPHABET[character])
    vocabulary = {character: byte for byte, character in enumerate(characters)}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = [pre_tokenizers.Split(Regex(cut_by), behavior="isolated")] if cut_by else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cut, bytes_only])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|begin|>"), AddedToken("<|end|>")])
    return backend


def tiny_tokenizer() -> Tokenizer:
    return Tokenizer(tiny_backend())


def say(text: str, **script: Any) -> Script:
    """Returns the script of a head that replies with this text."""
    return Script(ids=tuple(tiny_tokenizer().encode(text, chat=True)), end=end_id(), **script)


def end_id() -> int:
    found = tiny_backend().token_to_id("<|end|>")
    assert found is not None
    return found


def write_tiny_model(
    folder: Path,
    template: str = TEMPLATE,
    context_length: int = CONTEXT_LENGTH,
    cut_by: str = "",
) -> Path:
    """Writes the model. Returns its folder.

    Args:
        cut_by: regular expression at which the tokenizer splits a text first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backend = tiny_backend(cut_by)
    backend.save(str(folder / "tokenizer.json"))
    size = backend.get_vocab_size()
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 4,
        "num_attention_heads": 1,
        "vocab_size": size,
        "max_position_embeddings": context_length,
        "eos_token_id": end_id(),
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|end|>", "chat_template": template})
    )
    header = json.dumps(
        {
            name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]}
            for n, name in enumerate(
                ["model.embed_tokens.weight", "model.layers.0.w", "model.layers.1.w"]
            )
        }
    ).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(12)
    (folder / "model.safetensors").write_bytes(content)
    return folder
