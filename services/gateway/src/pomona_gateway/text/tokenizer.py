"""Tokenizer of one model."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any, cast

import tokenizers

from pomona.errors import ModelUnsupportedError, RequestError
from pomona.models.formats.gguf_header import read_gguf_header
from pomona.models.formats.vocabulary import folder_backend, gguf_backend
from pomona_gateway.text.vocabulary import Vocabulary, read_table


class Tokenizer(Vocabulary):
    """Encodes text into token ids and decodes ids into text.

    Args:
        backend: tokenizer of the ``tokenizers`` library.
        prefix: ids to put before a prompt that is not a chat, like BOS. None leaves that to
            the backend's post-processor.
    """

    def __init__(self, backend: tokenizers.Tokenizer, prefix: list[int] | None = None) -> None:
        self.table = read_table(backend)
        super().__init__(self.table)
        self.backend = backend
        self._prefix = prefix

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

    def rules(self) -> str:
        """Returns the tokenizer in the format of ``tokenizer.json``."""
        return self.backend.to_str()


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
    prefix = [bos] if adds_bos and isinstance(bos, int) else []
    tokenizer = Tokenizer(gguf_backend(fields, path), prefix)
    if prefix and tokenizer.name(prefix[0]) is None:
        raise ModelUnsupportedError(f"{path} has a BOS token that is not in its vocabulary")
    return tokenizer


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
