"""Sampled tokens on the wire from the tail to the head: one tensor, int64 (n, 3)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from pomona.errors import ProtocolError
from pomona.messages.codec import Buffer
from pomona.messages.pipeline import FINISH_REASONS, FinishReason, Tensor

COLUMNS = 3
"""Sequence, token id, index into FINISH_REASONS."""
NO_TOKEN = (-1, 0, 0)
"""A row without a token."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A token sampled for sequence ``seq``; ``finish`` is set on its last one."""

    seq: int
    token: int
    finish: FinishReason | None = None


def sampled_tensor(count: int) -> Tensor:
    """Returns dtype and shape of the tensor that holds ``count`` tokens."""
    return Tensor("int64", (count, COLUMNS))


def pack(tokens: Sequence[SampledToken], count: int | None = None) -> Buffer:
    """Encodes tokens as the bytes of their tensor, which has ``count`` rows or one a token."""
    numbers = array("q")
    for token in tokens:
        numbers.extend((token.seq, token.token, FINISH_REASONS.index(token.finish)))
    for _ in range(len(tokens), count or 0):
        numbers.extend(NO_TOKEN)
    return memoryview(numbers).cast("B") if numbers else b""


def unpack(tensor: Tensor, buffer: Buffer) -> list[SampledToken]:
    """Decodes tokens. Raises ProtocolError if the tensor or a number in it is not valid."""
    if tensor.dtype != "int64" or tensor.shape[1:] != (COLUMNS,):
        raise ProtocolError(f"sampled tokens must be int64 (n, {COLUMNS}), not {tensor}")
    numbers = array("q", bytes(buffer))
    tokens: list[SampledToken] = []
    for at in range(0, len(numbers), COLUMNS):
        seq, token, finish = numbers[at : at + COLUMNS]
        if (seq, token, finish) == NO_TOKEN:
            continue
        if token < 0 or not 0 <= finish < len(FINISH_REASONS):
            raise ProtocolError(f"{token}, ended by {finish}, is no drawn token")
        tokens.append(SampledToken(seq, token, FINISH_REASONS[finish]))
    return tokens
