"""Compressed bodies are inflated up to a limit only."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.errors import RequestError
from pomona_gateway.http.inflate import inflater

TEXT = b'{"messages": []}' * 100


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@given(st.lists(st.integers(0, 400), max_size=8))
@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("X-GZIP", gzip.compress(TEXT[:7]) + gzip.compress(TEXT[7:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("identity", TEXT),
    ],
    ids=["one member", "two members", "deflate", "raw deflate", "identity"],
)
def test_body_in_any_pieces_is_inflated(encoding: str, packed: bytes, cuts: list[int]) -> None:
    inflate = inflater(encoding)
    ends = sorted({*(cut for cut in cuts if cut < len(packed)), len(packed)})
    starts = [0, *ends[:-1]]
    pieces = [packed[start:end] for start, end in zip(starts, ends, strict=True)]
    assert b"".join(inflate.inflate(piece, 1 << 20) for piece in pieces) == TEXT
    inflate.end()


@pytest.mark.slow
def test_bomb_is_not_inflated_beyond_the_limit() -> None:
    bomb = gzip.compress(bytes(256 << 20))
    tracemalloc.start()
    try:
        assert len(inflater("gzip").inflate(bomb, 1001)) == 1001
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("cut", [None, -3])
def test_damaged_body_is_400(encoding: str, cut: int | None) -> None:
    packed = (gzip if encoding == "gzip" else zlib).compress(TEXT)
    data = b"\x07\x01nothing" if cut is None else packed[:cut]
    inflate = inflater(encoding)

    def inflate_all() -> None:
        inflate.inflate(data, 1 << 20)
        inflate.end()

    with pytest.raises(RequestError) as caught:
        inflate_all()
    assert (caught.value.status, caught.value.code) == (400, "invalid_encoding")


def test_other_encoding_is_415() -> None:
    with pytest.raises(RequestError, match="'br'") as caught:
        inflater("br")
    assert caught.value.status == 415
