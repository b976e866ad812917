"""Ids and text of one model."""

from __future__ import annotations

import codecs
import json
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, cast

import tokenizers
from tokenizers.decoders import DecodeStream

from pomona.errors import ModelUnsupportedError, RequestError
from pomona.models.formats.gguf_header import read_gguf_header
from pomona.models.formats.vocabulary import folder_backend, gguf_backend

_REPLACEMENT = "\ufffd"


def _byte_alphabet() -> dict[str, int]:
    """The printable characters by which byte-level vocabularies write the 256 bytes.

    Printable Latin-1 stands for itself; the other bytes take the characters from U+0100 on
    (https://github.com/openai/gpt-2/blob/master/src/encoder.py, ``bytes_to_unicode``).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return alphabet | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()


class TextDecoder(Protocol):
    """Turns the ids of one reply into text, as early as it is certain."""

    def push(self, token: int) -> str:
        """Text that is certain after this token; empty while a character is incomplete."""
        ...

    def flush(self) -> str:
        """What an unfinished character at the end of the reply becomes."""
        ...


class Tokenizer:
    """Ids and text of one model.

    Args:
        backend: the rules, as the ``tokenizers`` library runs them.
        prefix: ids that begin a prompt which is no chat, such as BOS. None leaves that to
            the backend's own rules.
    """

    def __init__(self, backend: tokenizers.Tokenizer, prefix: list[int] | None = None) -> None:
        self._backend = backend
        self._prefix = prefix
        self.size: int = backend.get_vocab_size(with_added_tokens=True)
        added: dict[int, Any] = backend.get_added_tokens_decoder()
        self.special_tokens = {token.content: i for i, token in added.items() if token.special}
        self.special_ids = frozenset(self.special_tokens.values())
        self.byte_level = _is_byte_level(backend)

    def encode(self, text: str, chat: bool) -> array[int]:
        """Ids of a text. A rendered chat brings its own first token; another text gets
        the model's. It may take as long as the model's makers like.

        Raises RequestError when the rules cannot be applied to the text.
        """
        own = self._prefix is None and not chat
        try:
            [encoding] = self._backend.encode_batch_fast([text], add_special_tokens=own)
        except BaseException as error:
            # The library's panics are no Exceptions; a regular expression past its limit is one.
            if isinstance(error, Exception) or type(error).__name__ != "PanicException":
                raise
            message = f"the model's tokenizer cannot cut this text: {error}"
            raise RequestError(400, "invalid_text", message) from error
        prefix = self._prefix if self._prefix and not chat else []
        return array("i", [*prefix, *encoding.ids])

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=skip_special)

    def decoder(self, visible: frozenset[int] = frozenset()) -> TextDecoder:
        """A decoder for one reply. All it gives is together :meth:`decode` of all ids, and
        the names of the ``visible`` special tokens."""
        hidden = self.special_ids - visible
        if self.byte_level:
            return _ByteDecoder(self, hidden)
        return _WindowDecoder(self, self._backend, visible)

    def rules(self) -> str:
        """The rules as ``tokenizer.json`` has them."""
        return self._backend.to_str()

    def name(self, token: int) -> str | None:
        """What the vocabulary calls a token; None when there is none of this id."""
        return self._backend.id_to_token(token)

    def named(self, names: frozenset[str]) -> frozenset[int]:
        """The special tokens that have these names."""
        return frozenset(i for i in self.special_ids if self._backend.id_to_token(i) in names)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; a special token's are those of its name."""
        piece = self._backend.id_to_token(token)
        if piece is None:
            return b""
        if self.byte_level:
            mapped = [BYTE_ALPHABET.get(character, -1) for character in piece]
            return piece.encode() if -1 in mapped else bytes(mapped)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()

    def token_text(self, token: int) -> str:
        """A token as text, for log-probabilities; incomplete characters show as U+FFFD."""
        return self.token_bytes(token).decode(errors="replace")


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a folder or a GGUF file. Raises ModelError naming the file."""
    if path.is_dir():
        backend = folder_backend(path)
        if _has_pattern(_decoder_state(backend)):
            # Tokens are decoded as they come, where nothing could end a match that takes long.
            raise ModelUnsupportedError(
                f"{path / 'tokenizer.json'} makes text of tokens by a regular expression, which "
                "is not supported"
            )
        return Tokenizer(backend)
    fields = read_gguf_header(path).fields
    bos = fields.get("tokenizer.ggml.bos_token_id")
    # SentencePiece's models begin with it unless the file says otherwise.
    usual = fields.get("tokenizer.ggml.model") == "llama"
    starts = fields.get("tokenizer.ggml.add_bos_token", usual)
    prefix = [int(bos)] if starts and bos is not None else []
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


class _ByteDecoder:
    """Byte-level vocabularies: every token is bytes, and the text is their UTF-8."""

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        if token in self._hidden:
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowDecoder:
    """Other vocabularies, where a token's text may depend on its neighbours."""

    def __init__(
        self, tokenizer: Tokenizer, backend: tokenizers.Tokenizer, visible: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._backend = backend
        self._visible = visible
        self._restart()

    def _restart(self) -> None:
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        if token in self._visible:
            return self.flush() + self._tokenizer.token_text(token)
        self._ids.append(token)
        text = self._stream.step(self._backend, token) or ""
        self._given += len(text)
        return text

    def flush(self) -> str:
        whole = self._backend.decode(self._ids, skip_special_tokens=True)
        rest = whole[self._given :]
        self._restart()
        return rest
