"""Vocabulary of one model: ids to text, without the tokenizer that turns text into ids.

Reading a tokenizer with a large vocabulary takes seconds, in which no other thread of Python runs.
The gateway therefore has this table, which a process of its own extracts (``model_process``).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers

from pomona.errors import ModelUnsupportedError
from pomona.models.fact_ranges import MAX_VOCABULARY

ABSENT = b"\xff"
"""Stands for an id without a token; no name contains this byte."""


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


@dataclass(frozen=True, slots=True)
class VocabularyTable:
    """Content of a vocabulary, as one process hands it to another.

    Attributes:
        size: number of tokens, added ones included.
        added_ids: ids of the added tokens, by name.
        special_ids: ids of those that are special.
        decoder: the decoder of the ``tokenizers`` library as JSON; empty when there is none.
        ends: end of each token's name in ``names``, from id 0, as uint32.
        names: the names in UTF-8, or ``ABSENT``.
        longest: length of the longest name in bytes.
    """

    size: int
    added_ids: Mapping[str, int]
    special_ids: tuple[int, ...]
    decoder: str
    ends: bytes
    names: bytes
    longest: int


def read_table(backend: tokenizers.Tokenizer) -> VocabularyTable:
    """Extracts the vocabulary of a tokenizer.

    Raises:
        ModelUnsupportedError: it has too many tokens.
    """
    size: int = backend.get_vocab_size(with_added_tokens=True)
    added: dict[int, Any] = backend.get_added_tokens_decoder()
    last = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if max(size, last + 1) > MAX_VOCABULARY:
        raise ModelUnsupportedError(
            f"its tokenizer has {size} tokens, with ids up to {last}; at most {MAX_VOCABULARY} "
            "tokens are supported"
        )
    decoder = backend.decoder
    pieces = [backend.id_to_token(token) for token in range(last + 1)]
    names = [ABSENT if piece is None else piece.encode() for piece in pieces]
    ends = array("I")
    end = 0
    for name in names:
        end += len(name)
        ends.append(end)
    return VocabularyTable(
        size=size,
        added_ids={token.content: i for i, token in added.items()},
        special_ids=tuple(i for i, token in added.items() if token.special),
        decoder="" if decoder is None else decoder.__getstate__().decode(),
        ends=ends.tobytes(),
        names=b"".join(names),
        longest=max(map(len, names), default=0),
    )


class Vocabulary:
    """Decodes ids into text.

    Attributes:
        size: number of tokens, added ones included.
        special_tokens: ids of the special tokens, by name.
        byte_level: every token is a sequence of bytes.
        longest: length of the longest name in bytes, at least 1.
    """

    def __init__(self, table: VocabularyTable) -> None:
        self._table = table
        self._ends = memoryview(table.ends).cast("I")
        self.size = table.size
        self.longest = max(table.longest, 1)
        self.special_ids = frozenset(table.special_ids)
        names = ((self.name(i), i) for i in table.special_ids)
        self.special_tokens = {name: i for name, i in names if name is not None}
        state = json.loads(table.decoder) if table.decoder else None
        self.byte_level = state is not None and state.get("type") == "ByteLevel"
        self._decoder = None if state is None else _decoder(state)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Decodes ids. ``skip_special`` leaves out special tokens."""
        hidden: frozenset[int] = self.special_ids if skip_special else frozenset()
        names = [name for i in ids if i not in hidden and (name := self.name(i)) is not None]
        return " ".join(names) if self._decoder is None else self._decoder.decode(names)

    def name(self, token: int) -> str | None:
        """Returns a token's name in the vocabulary; None for an unknown id."""
        ends = self._ends
        if not 0 <= token < len(ends):
            return None
        name = self._table.names[ends[token - 1] if token else 0 : ends[token]]
        return None if name == ABSENT else name.decode()

    def added_id(self, name: str) -> int | None:
        """Returns the id of the added token with this name; None when there is none."""
        return self._table.added_ids.get(name)

    def special_ids_of(self, names: frozenset[str]) -> frozenset[int]:
        """Returns the ids of the special tokens with these names."""
        return frozenset(i for name, i in self.special_tokens.items() if name in names)

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes of a token; those of its name for a special token."""
        piece = self.name(token)
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


def _decoder(state: Mapping[str, Any]) -> Any:
    """Returns the library's decoder with this state."""
    model = {"type": "BPE", "vocab": {}, "merges": []}
    empty = {"version": "1.0", "added_tokens": [], "model": model, "decoder": state}
    return tokenizers.Tokenizer.from_str(json.dumps(empty)).decoder
