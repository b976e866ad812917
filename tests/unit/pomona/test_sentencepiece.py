"""SentencePiece BPE from GGUF metadata: the same ids and text as the sentencepiece library."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece  # type: ignore[import-untyped]  # the library has no types
from hypothesis import given
from hypothesis import strategies as st

from pomona.models.formats.vocabulary import gguf_backend

CONTROL, USER_DEFINED, BYTE, NORMAL, UNKNOWN = 3, 4, 6, 1, 2
TEXTS = [
    "the cat sat on the mat and the other cat sat there too",
    "a language model reads tokens, and writes tokens; a tokenizer makes them of text",
    "numbers 0 1 2 3 10 11 12 100 and names of cities: Paris, Berlin, Prague",
    "indented    code\n    with spaces  and\ttabs",
] * 20


def trained(prefix: bool) -> Any:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        character_coverage=1.0,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<turn>"],
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def kind_of(model: Any, number: int) -> int:
    if model.is_unknown(number):
        return UNKNOWN
    if model.is_control(number):
        return CONTROL
    if model.is_byte(number):
        return BYTE
    return USER_DEFINED if model.id_to_piece(number) == "<turn>" else NORMAL


def backend_of(model: Any, prefix: bool) -> Any:
    """Returns a tokenizer from metadata in the layout of llama.cpp's converter."""
    numbers = range(model.get_piece_size())
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(n) for n in numbers],
        "tokenizer.ggml.scores": [model.get_score(n) for n in numbers],
        "tokenizer.ggml.token_type": [kind_of(model, n) for n in numbers],
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    return gguf_backend(fields, Path("model.gguf"))


MODELS = {prefix: trained(prefix) for prefix in (True, False)}
BACKENDS = {prefix: backend_of(model, prefix) for prefix, model in MODELS.items()}


@pytest.mark.parametrize("prefix", [True, False])
@given(
    text=st.one_of(
        st.text(alphabet=st.characters(exclude_characters="▁\0", codec="utf-8"), max_size=40),
        st.lists(
            st.sampled_from(
                ["the", "cat", "Paris", "tokenizer", ",", "12", "\n", "", "there", "é", "😀"]
            )
        ).map(" ".join),
    )
)
def test_ids_and_text_equal_those_of_sentencepiece(prefix: bool, text: str) -> None:
    ids = BACKENDS[prefix].encode(text, add_special_tokens=False).ids
    assert ids == MODELS[prefix].encode(text)
    assert BACKENDS[prefix].decode(ids) == text


def test_a_special_token_is_one_id() -> None:
    backend, model = BACKENDS[False], MODELS[False]
    ids = backend.encode("<s>the<turn>cat", add_special_tokens=False).ids
    turn = model.piece_to_id("<turn>")
    assert ids == [model.bos_id(), *model.encode("the"), turn, *model.encode("cat")]
