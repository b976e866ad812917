"""Results of a prompt, decoded from the tail's messages: log-probabilities and embeddings."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TypeAlias

from pomona.errors import ProtocolError
from pomona.messages.codec import Message
from pomona.messages.pipeline import Embedded, Scored

MAX_TOP_LOGPROBS = 20

TopLogprobs: TypeAlias = tuple[tuple[int, float], ...]
"""The most likely (id, logprob) pairs, most likely first."""


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Log-probabilities of consecutive prompt tokens.

    Attributes:
        index: number of the first one. Number i belongs to prompt token i + 1.
        logprobs: natural logarithms, one a token.
        top: the most likely tokens in the place of each token.
    """

    request: str
    attempt: int
    index: int
    logprobs: tuple[float, ...]
    top: tuple[TopLogprobs, ...]


@dataclass(frozen=True, slots=True)
class Embedding:
    """Embedding of a prompt. ``vector``: float32 (hidden_size,), not normalized."""

    request: str
    attempt: int
    vector: array[float]


def parse_prompt_logprobs(body: Scored, message: Message) -> PromptLogprobs:
    """Decodes a ``Scored``.

    Raises:
        ProtocolError: the tensors have the wrong number, dtype or shape.
    """
    tensors = message.envelope.tensors
    if [tensor.dtype for tensor in tensors] != ["float32", "int32", "float32"]:
        raise ProtocolError("prompt logprobs must be three tensors: float32, int32, float32")
    shapes = [tensor.shape for tensor in tensors]
    if [len(shape) for shape in shapes] != [1, 2, 2] or shapes[1] != shapes[2]:
        raise ProtocolError(f"prompt logprobs have invalid shapes {shapes}")
    count, alternatives = shapes[1]
    if shapes[0] != (count,) or count == 0:
        raise ProtocolError(f"prompt logprobs have invalid shapes {shapes}")
    if alternatives > MAX_TOP_LOGPROBS:
        raise ProtocolError(
            f"prompt logprobs have {alternatives} alternatives; at most {MAX_TOP_LOGPROBS} "
            "are allowed"
        )
    own, top_ids, top_logprobs = (memoryview(buffer).cast("B") for buffer in message.buffers)
    pairs = list(zip(top_ids.cast("i").tolist(), top_logprobs.cast("f").tolist(), strict=True))
    top = (tuple(pairs[n * alternatives : (n + 1) * alternatives]) for n in range(count))
    return PromptLogprobs(
        body.request, body.attempt, body.index, tuple(own.cast("f").tolist()), tuple(top)
    )


def parse_embedding(body: Embedded, message: Message) -> Embedding:
    """Decodes an ``Embedded``.

    Raises:
        ProtocolError: the tensor is not float32 (hidden_size,).
    """
    tensors = message.envelope.tensors
    if [(tensor.dtype, len(tensor.shape)) for tensor in tensors] != [("float32", 1)]:
        raise ProtocolError("an embedding must be one tensor, float32 (hidden_size,)")
    return Embedding(body.request, body.attempt, array("f", bytes(message.buffers[0])))
