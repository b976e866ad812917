"""From the tokens of one reply to its text: decoding, stop strings, log-probabilities."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pomona.messages.pipeline import Token
from pomona_gateway.pipeline.embedding import Embedding
from pomona_gateway.pipeline.prompt_results import PromptScores
from pomona_gateway.text import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability; None for the first of a prompt,
    before which there is nothing. ``top``: the likeliest ones."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What one or more tokens add to a reply. ``finish`` ends it; ``stop`` is the stop
    string that did. ``prompt``: log-probabilities of the prompt, and no text; ``embedding``:
    that of the prompt, likewise."""

    text: str
    chances: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    stop: str | None = None
    prompt: PromptScores | None = None
    embedding: Embedding | None = None


class StopScanner:
    """Holds text back while it may be the begin of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is certain, and the stop string that followed it, if one did."""
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
        """What was held back, at the end of the reply."""
        released, self._held = self._held, ""
        return released

    def _overlap(self, stop: str) -> int:
        """The longest end of the held text that is a begin of ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


class ReplyText:
    """The text of one reply as its tokens come.

    A token that ended the reply by its id adds no text. After a piece with ``finish``
    nothing more may be pushed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        stop_ids: frozenset[int],
        visible: frozenset[int] = frozenset(),
    ) -> None:
        """Args: visible: special tokens that are part of the text."""
        self._decoder = tokenizer.decoder(visible)
        self._scanner = StopScanner(stops)
        self._stop_ids = stop_ids
        self._decoded = 0
        self._released = 0
        self._pending: deque[tuple[int, TokenLogprob]] = deque()

    def push(self, token: Token) -> Piece:
        ended = token.finish == "stop" and token.token in self._stop_ids
        begin = self._decoded
        text = "" if ended else self._decoder.push(token.token)
        if token.finish is not None:
            text += self._decoder.flush()
        self._decoded += len(text)
        if token.logprob is not None and not ended:
            chance = TokenLogprob(token.token, token.logprob, token.top, begin)
            self._pending.append((self._decoded, chance))
        released, stopped = self._scanner.push(text)
        if stopped is not None:
            self._released += len(released)
            return Piece(released, self._cut(), "stop", stopped)
        if token.finish is not None:
            released += self._scanner.flush()
        self._released += len(released)
        return Piece(released, self._ripe(), token.finish)

    def _ripe(self) -> tuple[TokenLogprob, ...]:
        """The tokens whose text is out."""
        ripe: list[TokenLogprob] = []
        while self._pending and self._pending[0][0] <= self._released:
            ripe.append(self._pending.popleft()[1])
        return tuple(ripe)

    def _cut(self) -> tuple[TokenLogprob, ...]:
        """The tokens that begin before the stop string."""
        return tuple(x for _, x in self._pending if x.offset < self._released)
