"""Tests the tensor of sampled tokens that the tail sends to the head."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.errors import ProtocolError
from pomona.messages.codec import tensor_bytes
from pomona.messages.pipeline import FINISH_REASONS, Tensor
from pomona_stage_worker.sampling.sampled_tensors import SampledToken, pack, sampled_tensor, unpack

TOKENS = st.builds(
    SampledToken, st.integers(0, 2**53), st.integers(0, 2**31 - 1), st.sampled_from(FINISH_REASONS)
)


@given(st.lists(TOKENS, max_size=20))
def test_unpack_restores_what_pack_encoded(tokens: list[SampledToken]) -> None:
    tensor, buffer = sampled_tensor(len(tokens)), pack(tokens)
    assert len(buffer) == tensor_bytes(tensor)
    assert unpack(tensor, buffer) == tokens


@pytest.mark.parametrize("numbers", [(1, -1, 0), (1, 5, 3), (1, 5, -1)])
def test_numbers_out_of_range_are_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError):
        unpack(sampled_tensor(1), struct.pack("3q", *numbers))


@pytest.mark.parametrize("tensor", [Tensor("int32", (2, 3)), Tensor("int64", (3,))])
def test_a_tensor_of_another_dtype_or_shape_is_refused(tensor: Tensor) -> None:
    with pytest.raises(ProtocolError):
        unpack(tensor, bytes(24))
