"""The embedding of a prompt, read from the tail's message."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from pomona.errors import ProtocolError
from pomona.messages.codec import Message
from pomona.messages.pipeline import Embedded


@dataclass(frozen=True, slots=True)
class Embedding:
    """``vector``: float32, as long as the model's hidden states; not normalised."""

    request: str
    attempt: int
    vector: array[float]


def read_embedding(body: Embedded, message: Message) -> Embedding:
    """Raises ProtocolError when the tensor is not that of an ``Embedded``."""
    tensors = message.envelope.tensors
    if [(tensor.dtype, len(tensor.shape)) for tensor in tensors] != [("float32", 1)]:
        raise ProtocolError("an embedding is one tensor: float32 (hidden_size,)")
    return Embedding(body.request, body.attempt, array("f", bytes(message.buffers[0])))
