"""Greedy continuation of a text by a small model, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx_lm.models.cache import trim_prompt_cache

from pomona_stage_worker.model.guess_log import can_trim
from pomona_stage_worker.model.layer_caches import cache_arrays
from pomona_stage_worker.slicing import StageModel

CHUNK = 128
"""Most tokens that are read at once, so that a stage on the same device waits briefly."""


class Continuation:
    """A text in the caches of a model, and what follows it. Used by one thread only.

    Args:
        model: a whole model, both head and tail, whose caches can be trimmed.
    """

    def __init__(self, model: StageModel) -> None:
        self._model = model
        self._caches = model.make_cache()
        self._text: list[int] = []
        self._computed = 0

    @property
    def text(self) -> Sequence[int]:
        """The text that is followed, tokens sampled by :meth:`advance` included."""
        return self._text

    @property
    def unread(self) -> int:
        """Tokens of the text that are not in the caches yet."""
        return len(self._text) - self._computed

    def shared(self, text: Sequence[int]) -> int:
        """Returns the number of tokens at the start of ``text`` that are in the caches."""
        known = self._text[: self._computed]
        most = min(len(known), len(text))
        if known[:most] == list(text[:most]):
            return most
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if known[:middle] == list(text[:middle]):
                low = middle
            else:
                high = middle - 1
        return low

    def follow(self, text: Sequence[int]) -> None:
        """Takes another text, of at least one token. Its start stays in the caches if it is there.

        The last token is always computed again, since its logits are needed.
        """
        kept = min(self.shared(text), len(text) - 1)
        trim_prompt_cache(self._caches, self._computed - kept)
        self._text = list(text)
        self._computed = kept

    def advance(self) -> int | None:
        """Computes up to ``CHUNK`` tokens. Returns the token that follows the text, and adds it to
        the text; None while more of the text must be read."""
        end = min(self._computed + CHUNK, len(self._text))
        is_last = end == len(self._text)
        tokens = mx.array([self._text[self._computed : end]], dtype=mx.int32)
        output = self._model(tokens, None, self._caches, logits="last" if is_last else "none")
        self._computed = end
        if not is_last:
            mx.eval(cache_arrays(self._caches))
            return None
        token = int(mx.argmax(output[0, -1]).tolist())  # type: ignore[arg-type]  # a scalar
        self._text.append(token)
        return token


def can_continue(model: StageModel) -> bool:
    """Returns whether wrong guesses can be removed from the caches of a model."""
    return can_trim(model.make_cache())
