"""A vocabulary decodes as its tokenizer does, and hostile ones are refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

from pomona.errors import ModelError, ModelUnsupportedError
from pomona_gateway.generation.detokenizer import incremental_decoder
from pomona_gateway.text import Vocabulary, load_language_model, model_process, vocabulary
from pomona_gateway.text.vocabulary import read_table
from support.models.tiny_model import tiny_backend, write_tiny_model

PIECES = ["<unk>", "\u2581", "\u2581the", "cat", "ü", *(f"<0x{n:02X}>" for n in range(256))]


@cache
def pieces_backend(kind: str) -> Backend:
    """Returns a tokenizer of SentencePiece's kind, one of WordPiece's, or one without a decoder."""
    pieces = {piece: number for number, piece in enumerate(PIECES)}
    backend = Backend(models.BPE(vocab=pieces, merges=[], unk_token="<unk>", byte_fallback=True))
    spaces = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind == "sentencepiece":
        backend.decoder = decoders.Sequence([*spaces, decoders.Strip(" ", 1, 0)])
    elif kind == "wordpiece":
        backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken("<s>")])
    backend.add_tokens([AddedToken("<turn>")])
    return backend


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece", "none"])
@given(ids=st.lists(st.integers(-1, len(PIECES) + 5), max_size=12), skip=st.booleans())
def test_decoding_equals_the_tokenizers(kind: str, ids: list[int], skip: bool) -> None:
    backend = pieces_backend(kind)
    found = Vocabulary(read_table(backend))
    known = [i for i in ids if i >= 0]
    assert found.decode(ids, skip) == backend.decode(known, skip_special_tokens=skip)
    assert [found.name(i) for i in known] == [backend.id_to_token(i) for i in known]
    assert found.size == backend.get_vocab_size()


@given(ids=st.lists(st.integers(0, len(PIECES) + 1), max_size=12))
def test_incremental_decoding_equals_the_librarys_stream(ids: list[int]) -> None:
    backend = pieces_backend("sentencepiece")
    decoder = incremental_decoder(Vocabulary(read_table(backend)))
    stream = DecodeStream(skip_special_tokens=True)
    for token in ids:
        try:
            expected = stream.step(backend, token) or ""
        except Exception:  # the library fails where a byte changes what came before
            decoder.push(token)
            break
        assert decoder.push(token) == expected


def test_a_table_passes_between_processes(tmp_path: Path) -> None:
    language = load_language_model(str(write_tiny_model(tmp_path / "tiny")))
    expected = Vocabulary(read_table(tiny_backend()))
    found = language.tokenizer
    assert found.special_tokens == expected.special_tokens
    assert found.byte_level
    assert [found.token_bytes(i) for i in range(-1, 300)] == [
        expected.token_bytes(i) for i in range(-1, 300)
    ]
    assert found.longest == len("<|begin|>")


def test_too_many_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "MAX_VOCABULARY", 200)
    with pytest.raises(ModelUnsupportedError, match="at most 200 tokens"):
        read_table(tiny_backend())


def test_a_tokenizer_that_is_too_large_or_slow_to_read_fails_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    with (folder / "tokenizer.json").open("r+b") as file:
        whole = file.read()
        file.truncate(65 << 20)
    with pytest.raises(ModelError, match=r"tokenizer\.json has more than"):
        load_language_model(str(folder))
    (folder / "tokenizer.json").write_bytes(whole)
    monkeypatch.setattr(model_process, "DEADLINE_S", 0.01)
    monkeypatch.setattr(model_process, "GRACE_S", 0.0)
    with pytest.raises(ModelError, match="to read"):
        load_language_model(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff" * 100, b'{"model": 7}'])
def test_a_broken_tokenizer_fails_the_model(tmp_path: Path, content: bytes) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_language_model(str(folder))


@pytest.mark.slow
def test_end_tokens_beyond_the_vocabulary_are_left_out(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [5, 10**6]}))
    assert 5 in load_language_model(str(folder)).stop_ids
    assert 10**6 not in load_language_model(str(folder)).stop_ids
