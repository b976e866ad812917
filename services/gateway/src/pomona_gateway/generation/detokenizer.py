"""Detokenizes one reply as its tokens arrive: text, stop strings, log-probabilities."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pomona.messages.pipeline import Token
from pomona_gateway.pipeline.prompt_results import Embedding, PromptLogprobs
from pomona_gateway.text import Vocabulary


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one token.

    Attributes:
        logprob: natural logarithm; None for the first token of a prompt.
        top: the most likely (id, logprob) pairs, most likely first.
        offset: position of the token's first character in the text.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    offset: int


@dataclass(frozen=True, slots=True)
class ReplyDelta:
    """Text and results that one or more tokens add to a reply.

    Attributes:
        finish: reason of the reply's end, in its last delta.
        stop: stop string that ended the reply.
        prompt_logprobs: log-probabilities of the prompt; the delta has nothing else.
        embedding: embedding of the prompt; the delta has nothing else.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    stop: str | None = None
    prompt_logprobs: PromptLogprobs | None = None
    embedding: Embedding | None = None

    @property
    def is_empty(self) -> bool:
        """Checks that the delta adds nothing."""
        prompt_result = self.prompt_logprobs or self.embedding
        return not (self.text or self.logprobs or self.finish or prompt_result)


class Detokenizer:
    """Detokenizes one reply.

    The id of a stop token adds no text. No token may follow a delta with ``finish``.
    """

    def __init__(
        self,
        tokenizer: Vocabulary,
        stops: Sequence[str],
        stop_ids: frozenset[int],
        visible: frozenset[int] = frozenset(),
    ) -> None:
        """Args: visible: special tokens that are part of the text."""
        self._decoder = incremental_decoder(tokenizer, visible)
        self._scanner = StopScanner(stops)
        self._stop_ids = stop_ids
        self._decoded = 0
        self._released = 0
        self._pending: deque[tuple[int, TokenLogprob]] = deque()

    def push(self, token: Token) -> ReplyDelta:
        """Decodes the next token."""
        is_stop_token = token.finish == "stop" and token.token in self._stop_ids
        offset = self._decoded
        text = "" if is_stop_token else self._decoder.push(token.token)
        if token.finish is not None:
            text += self._decoder.flush()
        self._decoded += len(text)
        if token.logprob is not None and not is_stop_token:
            logprob = TokenLogprob(token.token, token.logprob, token.top, offset)
            self._pending.append((self._decoded, logprob))
        released, stop = self._scanner.push(text)
        if stop is not None:
            self._released += len(released)
            return ReplyDelta(released, self._logprobs_before_stop(), "stop", stop)
        if token.finish is not None:
            released += self._scanner.flush()
        self._released += len(released)
        return ReplyDelta(released, self._released_logprobs(), token.finish)

    def _released_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Takes the tokens whose text is completely released."""
        out: list[TokenLogprob] = []
        while self._pending and self._pending[0][0] <= self._released:
            out.append(self._pending.popleft()[1])
        return tuple(out)

    def _logprobs_before_stop(self) -> tuple[TokenLogprob, ...]:
        """Returns the pending tokens that start before the stop string."""
        return tuple(x for _, x in self._pending if x.offset < self._released)


class StopScanner:
    """Finds stop strings. Holds back text that may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Returns the text that no stop string can contain, and the stop string after it."""
        if not self._stops:
            return text, None
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            released, self._held = self._held[:at], ""
            return released, stop
        keep = max(self._overlap(stop) for stop in self._stops)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released, None

    def flush(self) -> str:
        """Returns the held text at the end of the reply."""
        released, self._held = self._held, ""
        return released

    def _overlap(self, stop: str) -> int:
        """Length of the longest suffix of the held text that is a prefix of ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


class IncrementalDecoder(Protocol):
    """Decodes the token ids of one reply. The text does not wait for later tokens."""

    def push(self, token: int) -> str:
        """Decodes a token. Returns the new text; empty while a character is incomplete."""
        ...

    def flush(self) -> str:
        """Returns the text of an incomplete character at the end of the reply."""
        ...


def incremental_decoder(
    tokenizer: Vocabulary, visible: frozenset[int] = frozenset()
) -> IncrementalDecoder:
    """Returns a decoder for one reply.

    All its text together is ``tokenizer.decode`` of all ids, with the names of the ``visible``
    special tokens.
    """
    if tokenizer.byte_level:
        return _ByteDecoder(tokenizer, tokenizer.special_ids - visible)
    return _WindowDecoder(tokenizer, visible)


class _ByteDecoder:
    """Decodes byte-level vocabularies, whose tokens are bytes of UTF-8."""

    def __init__(self, tokenizer: Vocabulary, hidden: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        if token in self._hidden:
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowDecoder:
    """Decodes other vocabularies, where the text of a token may depend on its neighbors."""

    def __init__(self, tokenizer: Vocabulary, visible: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._visible = visible
        self._restart()

    def _restart(self) -> None:
        self._ids: list[int] = []
        self._emitted = 0
        self._window: list[int] = []
        self._context: int = 0
        self._decoded = ""

    def push(self, token: int) -> str:
        if token in self._visible:
            return self.flush() + self._tokenizer.token_text(token)
        self._ids.append(token)
        text = self._step(token)
        self._emitted += len(text)
        return text

    def _step(self, token: int) -> str:
        """Decodes a window of the last tokens, and returns what the token adds to its text.

        The window begins with tokens whose text was returned before (``_context`` tokens, the
        text ``_decoded``), because a decoder may treat the first token of a text in its own way.
        """
        if not self._decoded and self._window:
            before = self._tokenizer.decode(self._window)
            if not before.endswith("\ufffd"):
                self._decoded, self._context = before, len(self._window)
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        if len(text) <= len(self._decoded) or text.endswith("\ufffd"):
            return ""
        added = text[len(self._decoded) :]
        self._window = self._window[self._context :]
        self._context = len(self._window)
        self._decoded = self._tokenizer.decode(self._window)
        return added

    def flush(self) -> str:
        rest = self._tokenizer.decode(self._ids)[self._emitted :]
        self._restart()
        return rest
