"""Tokenizer of one model."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import tokenizers

from pomona.errors import ModelUnsupportedError, RequestError
from pomona.models.formats.gguf_header import read_gguf_header
from pomona.models.formats.vocabulary import folder_backend, gguf_backend


def _byte_alphabet() -> dict[str, int]:
    """Returns the byte of each character in byte-level vocabularies.

    Printable Latin-1 characters stand for themselves; the other bytes are written as U+0100
    and up (https://github.com/openai/gpt-2/blob/master/src/encoder.py, ``bytes_to_unicode``).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return alphabet | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()


class Tokenizer:
    """Encodes text into token ids and decodes ids into text.

    Args:
        backend: tokenizer of the ``tokenizers`` library.
        prefix: ids to put before a prompt that is not a chat, such as BOS. None leaves that to
            the backend's post-processor.

    Attributes:
        size: number of tokens, added ones included.
        special_tokens: ids of the special tokens, by name.
        byte_level: every token is a sequence of bytes.
    """

    def __init__(self, backend: tokenizers.Tokenizer, prefix: list[int] | None = None) -> None:
        self.backend = backend
        self._prefix = prefix
        self.size: int = backend.get_vocab_size(with_added_tokens=True)
        added: dict[int, Any] = backend.get_added_tokens_decoder()
        self.special_tokens = {token.content: i for i, token in added.items() if token.special}
        self._added_ids = {token.content: i for i, token in added.items()}
        self.special_ids = frozenset(self.special_tokens.values())
        self.byte_level = _is_byte_level(backend)

    def encode(self, text: str, chat: bool) -> array[int]:
        """Encodes a text. The time it takes is not bounded.

        Args:
            chat: the text is a rendered chat, which has its own BOS; others get the prefix.

        Raises:
            RequestError: the tokenizer cannot split the text.
        """
        add_special = self._prefix is None and not chat
        try:
            [encoding] = self.backend.encode_batch_fast([text], add_special_tokens=add_special)
        except BaseException as error:
            # A regular expression past its limit panics; PanicException is not an Exception.
            if isinstance(error, Exception) or type(error).__name__ != "PanicException":
                raise
            message = f"the model's tokenizer cannot split this text: {error}"
            raise RequestError(400, "invalid_text", message) from error
        prefix = self._prefix if self._prefix and not chat else []
        return array("i", [*prefix, *encoding.ids])

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Decodes ids. ``skip_special`` leaves out special tokens."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special)

    def rules(self) -> str:
        """Returns the tokenizer in the format of ``tokenizer.json``."""
        return self.backend.to_str()

    def name(self, token: int) -> str | None:
        """Returns a token's name in the vocabulary; None for an unknown id."""
        return self.backend.id_to_token(token)

    def added_id(self, name: str) -> int | None:
        """Returns the id of the added token with this name; None when there is none."""
        return self._added_ids.get(name)

    def special_ids_of(self, names: frozenset[str]) -> frozenset[int]:
        """Returns the ids of the special tokens with these names."""
        return frozenset(i for i in self.special_ids if self.backend.id_to_token(i) in names)

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes of a token; those of its name for a special token."""
        piece = self.backend.id_to_token(token)
        if piece is None:
            return b""
        if self.byte_level:
            mapped = [BYTE_ALPHABET.get(character, -1) for character in piece]
            return piece.encode() if -1 in mapped else bytes(mapped)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()

    def token_text(self, token: int) -> str:
        """Returns the text of one token. Incomplete characters become U+FFFD."""
        return self.token_bytes(token).decode(errors="replace")


def read_tokenizer(path: Path) -> Tokenizer:
    """Reads the tokenizer of a model folder or a GGUF file.

    Raises:
        ModelError: the file has no tokenizer or an unsupported one.
    """
    if path.is_dir():
        backend = folder_backend(path)
        if _has_pattern(_decoder_state(backend)):
            # Replies are decoded on the event loop, where nothing bounds the time of a match.
            raise ModelUnsupportedError(
                f"{path / 'tokenizer.json'} decodes with a regular expression, which is not "
                "supported"
            )
        return Tokenizer(backend)
    fields = read_gguf_header(path).fields
    bos = fields.get("tokenizer.ggml.bos_token_id")
    # SentencePiece models add BOS unless the file states otherwise.
    default = fields.get("tokenizer.ggml.model") == "llama"
    adds_bos = fields.get("tokenizer.ggml.add_bos_token", default)
    prefix = [int(bos)] if adds_bos and bos is not None else []
    return Tokenizer(gguf_backend(fields, path), prefix)


def _decoder_state(backend: tokenizers.Tokenizer) -> Any:
    decoder = backend.decoder
    return None if decoder is None else json.loads(decoder.__getstate__())


def _has_pattern(state: Any) -> bool:
    match state:
        case dict():
            parts = cast("dict[str, Any]", state)
            return "Regex" in parts or any(map(_has_pattern, parts.values()))
        case list():
            return any(map(_has_pattern, cast("list[Any]", state)))
        case _:
            return False


def _is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    state = _decoder_state(backend)
    return state is not None and state.get("type") == "ByteLevel"
