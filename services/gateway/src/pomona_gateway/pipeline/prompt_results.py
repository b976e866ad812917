"""Log-probabilities of a request's prompt, read from the tail's messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pomona.errors import ProtocolError
from pomona.messages.codec import Message
from pomona.messages.pipeline import Scored

MAX_ALTERNATIVES = 20

Alternatives: TypeAlias = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class PromptScores:
    """A part of them.

    Attributes:
        index: number of the first one; number i is of prompt token i + 1.
        logprobs: natural logarithms, one for each token.
        top: for each token the likeliest (id, logprob) pairs, most likely first.
    """

    request: str
    attempt: int
    index: int
    logprobs: tuple[float, ...]
    top: tuple[Alternatives, ...]


def read_scores(body: Scored, message: Message) -> PromptScores:
    """Raises ProtocolError when the tensors are not those of a ``Scored``."""
    tensors = message.envelope.tensors
    if [tensor.dtype for tensor in tensors] != ["float32", "int32", "float32"]:
        raise ProtocolError("scores are three tensors: float32, int32, float32")
    shapes = [tensor.shape for tensor in tensors]
    if [len(shape) for shape in shapes] != [1, 2, 2] or shapes[1] != shapes[2]:
        raise ProtocolError(f"scores of shapes {shapes}")
    count, alternatives = shapes[1]
    if shapes[0] != (count,) or count == 0:
        raise ProtocolError(f"scores of shapes {shapes}")
    if alternatives > MAX_ALTERNATIVES:
        raise ProtocolError(f"{alternatives} alternatives are over {MAX_ALTERNATIVES}")
    own, likely, likelihoods = (memoryview(buffer).cast("B") for buffer in message.buffers)
    pairs = list(zip(likely.cast("i").tolist(), likelihoods.cast("f").tolist(), strict=True))
    top = (tuple(pairs[n * alternatives : (n + 1) * alternatives]) for n in range(count))
    return PromptScores(
        body.request, body.attempt, body.index, tuple(own.cast("f").tolist()), tuple(top)
    )
