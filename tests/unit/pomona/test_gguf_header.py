"""GGUF header: the same result as the ``gguf`` package, and rejection of damaged files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.errors import ModelError
from pomona.models import EMBEDDED_MODEL, resolve
from pomona.models.formats.gguf_header import read_gguf_header


@pytest.mark.slow
def test_the_header_of_the_embedded_model_equals_that_of_the_gguf_package() -> None:
    path = resolve(EMBEDDED_MODEL)
    header, reader = read_gguf_header(path), GGUFReader(path)
    expected = {key: value.contents() for key, value in reader.fields.items() if "GGUF." not in key}
    assert header.fields == expected
    assert [(x.name, x.elements, x.stored_bytes) for x in header.tensors] == [
        (str(x.name), int(x.n_elements), int(x.n_bytes)) for x in reader.tensors
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(9)
    writer.add_token_list(["a", "ü"])
    writer.add_token_scores([0.5, -1.0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@given(cut=st.integers(0, 400), byte=st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_read_or_raises_a_model_error(small: Path, cut: int, byte: int) -> None:
    whole = small.read_bytes()
    place = cut % len(whole)
    damaged = small.with_name("damaged.gguf")
    damaged.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    with suppress(ModelError):
        header = read_gguf_header(damaged)
        assert header.tensors == ()
        assert len(header.fields) <= len(read_gguf_header(small).fields)


def test_a_truncated_file_raises_a_model_error_that_names_it(small: Path) -> None:
    whole = small.read_bytes()
    cut = small.with_name("cut.gguf")
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf"):
            read_gguf_header(cut)
