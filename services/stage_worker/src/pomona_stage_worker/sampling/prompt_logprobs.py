"""Log-probabilities of prompts' own tokens, on the tail, as the chunks pass through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import numpy as np

from pomona.messages.cache_ops import Close, Fork, Open
from pomona.messages.codec import Buffer
from pomona.messages.pipeline import Embedded, Scored, Step, Tensor

PromptMessage: TypeAlias = tuple[Scored | Embedded, tuple[Tensor, ...], tuple[Buffer, ...]]


@dataclass(frozen=True, slots=True)
class PromptResult:
    """What a chunk tells the gateway at ``reply`` of its prompt: body, tensors, buffers."""

    reply: str
    message: PromptMessage


@dataclass(slots=True)
class _Prompt:
    """A prompt that is being read. ``position``: how many of its tokens the caches hold."""

    opened: Open
    ids: tuple[int, ...]
    position: int = 0


class PromptScores:
    """The prompts whose log-probabilities are asked for; other sequences leave no trace here.

    The logits after token i tell of token i + 1, which may be of the next chunk; therefore
    the whole prompt comes with the op that opens the sequence.
    """

    def __init__(self) -> None:
        self._prompts: dict[int, _Prompt] = {}

    def note(self, op: object) -> None:
        """Take in an op of a step, in its order."""
        if isinstance(op, Open):
            ids = op.history[: len(op.history) - op.replied]
            if op.sampling.prompt_logprobs is not None and op.scored < len(ids) - 1:
                self._prompts[op.seq] = _Prompt(op, ids)
        elif isinstance(op, Fork) and op.seq in self._prompts:
            self._prompts[op.seq].position = op.length
        elif isinstance(op, Close):
            self._prompts.pop(op.seq, None)

    def wanted(self, step: Step) -> bool:
        """Whether the logits of all positions of this step are of use."""
        return step.lane is None and step.rows[0] in self._prompts

    def take(self, step: Step, logits: mx.array) -> PromptResult | None:
        """What a chunk tells; None when it tells nothing that is not known already.

        Args:
            logits: (1, length, vocabulary), any float dtype.
        """
        prompt = self._prompts[step.rows[0]]
        op = prompt.opened
        begin, end = prompt.position, prompt.position + logits.shape[1]
        prompt.position = end
        first, last = max(begin, op.scored), min(end, len(prompt.ids) - 1)
        if first >= last:
            return None
        targets = mx.array(prompt.ids[first + 1 : last + 1])
        rows = logits[0, first - begin : last - begin].astype(mx.float32)
        parts = score(rows, targets, op.sampling.prompt_logprobs or 0)
        arrays = [np.asarray(part) for part in parts]
        return PromptResult(
            op.reply,
            (
                Scored(op.request, op.attempt, first),
                (
                    Tensor("float32", arrays[0].shape),
                    Tensor("int32", arrays[1].shape),
                    Tensor("float32", arrays[2].shape),
                ),
                tuple(array.tobytes() for array in arrays),
            ),
        )


def embedded(op: Open, last: mx.array) -> PromptResult:
    """What the tail tells of a prompt that is to be embedded.

    Args:
        last: (hidden_size,), any float dtype: the hidden states of its last token.
    """
    vector = np.asarray(last.astype(mx.float32))
    message = Embedded(op.request, op.attempt)
    tensor = Tensor("float32", vector.shape)
    return PromptResult(op.reply, (message, (tensor,), (vector.tobytes(),)))


def score(rows: mx.array, targets: mx.array, count: int) -> tuple[mx.array, mx.array, mx.array]:
    """Log-probabilities of ``targets``, and the ``count`` likeliest ids with theirs.

    Args:
        rows: float32 (n, vocabulary), logits.
        targets: integers (n,).

    Returns:
        float32 (n,); int32 (n, count), most likely first; float32 (n, count).
    """
    whole = mx.logsumexp(rows, axis=-1, keepdims=True)
    own = mx.take_along_axis(rows, targets[:, None], axis=-1) - whole
    ids = _likeliest(rows, count)
    top = mx.take_along_axis(rows, ids, axis=-1) - whole
    scored = own[:, 0], ids.astype(mx.int32), top
    mx.eval(scored)
    return scored


def _likeliest(rows: mx.array, count: int) -> mx.array:
    """(n, vocabulary) -> (n, count)."""
    if count == 0:
        return mx.zeros((rows.shape[0], 0), dtype=mx.int32)
    if count == 1:
        return mx.argmax(rows, axis=-1, keepdims=True)
    if count < rows.shape[-1]:
        some = mx.argpartition(-rows, count - 1, axis=-1)[:, :count]
    else:
        some = mx.broadcast_to(mx.arange(rows.shape[-1]), rows.shape)
    order = mx.argsort(-mx.take_along_axis(rows, some, axis=-1), axis=-1)
    return mx.take_along_axis(some, order, axis=-1)
