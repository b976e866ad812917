"""The prompt as the begin of a reply, with its log-probabilities where they are asked for."""

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
from pomona_gateway.text import Tokenizer


class Echo:
    """One reply's prompt. The parts that it gives are together ``text``.

    Args:
        prompt: the ids of ``text``, perhaps after such as the tokenizer puts before it.
        scored: give each token with its log-probability, when that comes.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: array[int], text: str, scored: bool) -> None:
        self._special = tokenizer.special_ids
        self._decoder = incremental_decoder(tokenizer, self._special)
        self._prompt = prompt
        self._text = text
        self._scored = scored
        self._next = 0
        self._decoded = 0

    def begin(self) -> ReplyDelta:
        """What is known at once: the whole text, or the first token, which has no chance."""
        return self._advance([(None, ())]) if self._scored else ReplyDelta(self._text)

    def take(self, scores: PromptLogprobs) -> ReplyDelta:
        """The tokens whose log-probabilities came."""
        return self._advance(zip(scores.logprobs, scores.top, strict=True))

    def shifted(self, piece: ReplyDelta) -> ReplyDelta:
        """A part of the reply as it stands behind the prompt."""
        begin = len(self._text)
        chances = tuple(replace(x, offset=x.offset + begin) for x in piece.logprobs)
        return replace(piece, logprobs=chances)

    def _advance(self, scores: Iterable[tuple[float | None, TopLogprobs]]) -> ReplyDelta:
        begin = self._offset
        chances: list[TokenLogprob] = []
        for logprob, top in scores:
            token = self._prompt[self._next]
            chances.append(TokenLogprob(token, logprob, top, self._offset))
            self._next += 1
            self._decode(token)
        end = self._offset if self._next < len(self._prompt) else len(self._text)
        return ReplyDelta(self._text[begin:end], tuple(chances))

    @property
    def _offset(self) -> int:
        """Where the next token begins. A text that the tokenizer normalised may be shorter."""
        return min(self._decoded, len(self._text))

    def _decode(self, token: int) -> None:
        text = self._decoder.push(token)
        before_text = self._decoded == 0 and token in self._special
        if not (before_text and not self._text.startswith(text)):
            self._decoded += len(text)
