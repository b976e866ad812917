"""``echo`` of text completions: the prompt before the reply, with its logprobs."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace

from pomona_gateway.generation.detokenizer import (
    ReplyDelta,
    TokenLogprob,
    incremental_decoder,
)
from pomona_gateway.pipeline.prompt_results import PromptLogprobs, TopLogprobs
from pomona_gateway.text import Vocabulary


class Echo:
    """The prompt of one reply, as pieces whose texts together are ``text``.

    Args:
        prompt: token ids of ``text``, perhaps after special tokens that the tokenizer adds.
        with_logprobs: give each token with its logprob as soon as that arrives; otherwise
            the first piece is the whole text.
    """

    def __init__(
        self, tokenizer: Vocabulary, prompt: array[int], text: str, with_logprobs: bool
    ) -> None:
        self._special_ids = tokenizer.special_ids
        self._decoder = incremental_decoder(tokenizer, self._special_ids)
        self._prompt = prompt
        self._text = text
        self._with_logprobs = with_logprobs
        self._next_token = 0
        self._decoded_length = 0

    def first_piece(self) -> ReplyDelta:
        """Returns the piece that needs no result of the model: the whole text, or the first
        token, which has no logprob."""
        return self._advance([(None, ())]) if self._with_logprobs else ReplyDelta(self._text)

    def next_piece(self, scores: PromptLogprobs) -> ReplyDelta:
        """Returns the next tokens of the prompt with their logprobs."""
        return self._advance(zip(scores.logprobs, scores.top, strict=True))

    def after_prompt(self, piece: ReplyDelta) -> ReplyDelta:
        """Shifts the text offsets of a piece of the reply by the length of the prompt."""
        shift = len(self._text)
        logprobs = tuple(replace(x, offset=x.offset + shift) for x in piece.logprobs)
        return replace(piece, logprobs=logprobs)

    def _advance(self, scores: Iterable[tuple[float | None, TopLogprobs]]) -> ReplyDelta:
        start = self._offset
        logprobs: list[TokenLogprob] = []
        for logprob, top in scores:
            token = self._prompt[self._next_token]
            logprobs.append(TokenLogprob(token, logprob, top, self._offset))
            self._next_token += 1
            self._decode(token)
        end = self._offset if self._next_token < len(self._prompt) else len(self._text)
        return ReplyDelta(self._text[start:end], tuple(logprobs))

    @property
    def _offset(self) -> int:
        """Offset of the next token in the text.

        The decoded tokens may be longer than a text that the tokenizer normalised.
        """
        return min(self._decoded_length, len(self._text))

    def _decode(self, token: int) -> None:
        text = self._decoder.push(token)
        added = self._decoded_length == 0 and token in self._special_ids
        if not (added and not self._text.startswith(text)):
            self._decoded_length += len(text)
