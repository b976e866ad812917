"""One client request, whatever dialect it came in, and its replies."""

from __future__ import annotations

import time
from array import array
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from pomona.errors import RequestError
from pomona.messages.pipeline import QueuePlace, Started, Token
from pomona.messages.sampling import Sampling
from pomona_gateway.generation.detokenizer import Piece, ReplyText
from pomona_gateway.metrics import Metrics, Timing
from pomona_gateway.pipeline.client import PipelineClient
from pomona_gateway.pipeline.embedding import Embedding
from pomona_gateway.pipeline.inbox import Generation, Inbox, Running
from pomona_gateway.pipeline.prompt_results import PromptScores
from pomona_gateway.text import LanguageModel

SEED_MASK = 2**64 - 1
TELL_PROGRESS_S = 1.0
"""At the least between two reports on a prompt's progress."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What every dialect is translated to.

    Attributes:
        model: the model's own name; ``language`` is how it reads and writes.
        stops: strings that end a reply; none of their text is given.
        prompts: each gets ``count`` replies; their seeds differ.
        visible: special tokens that are part of the text.
        at_once: replies in the works at one time; the others follow as these end.
        prompt_only: replies have no tokens; one is drawn, which nobody sees.
        share: kept prefixes are shared only within it.
        priority: 0 is the most urgent.
        queue_share: how much of the head's queue those of the same ``share`` may fill.
    """

    model: str
    language: LanguageModel
    prompts: tuple[array[int], ...]
    sampling: Sampling
    stops: tuple[str, ...] = ()
    count: int = 1
    visible: frozenset[int] = frozenset()
    share: str = ""
    priority: int = 0
    queue_share: float = 1.0
    at_once: int = 2**31
    prompt_only: bool = False

    @property
    def replies(self) -> int:
        """All replies: those to the first prompt, then those to the next."""
        return len(self.prompts) * self.count

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)


@dataclass(frozen=True, slots=True)
class Usage:
    prompt: int
    reply: int
    cached: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """No text yet, or for a while.

    Attributes:
        prefilled: tokens of the prompt that are done, of ``total``.
        position: in the head's queue, where 1 is next; 0 when the prompt was begun, or the
            head has not said yet.
    """

    prefilled: int
    total: int
    position: int = 0

    def __str__(self) -> str:
        """For the comments of a stream."""
        if self.position:
            return f"queued at {self.position}"
        return f"prompt {self.prefilled}/{self.total}"


class GenerationStream:
    """The running replies to one completion. Close it, or the work goes on."""

    def __init__(self, engine: PipelineClient, metrics: Metrics, completion: Completion) -> None:
        """Begins the work. Raises RequestError when it cannot begin now."""
        self.completion = completion
        self._engine = engine
        self._metrics = metrics
        self._inbox = Inbox()
        self._received = 0
        self._sequences: list[Running] = []
        self._open: set[int] = set()
        self._abort_reason = "abort"
        sampling = completion.sampling
        self._texts = [
            ReplyText(completion.language.tokenizer, completion.stops, frozenset(sampling.stop_ids))
            for _ in range(completion.replies)
        ]
        metrics.request_n.labels(completion.model).observe(completion.count)
        metrics.request_max_tokens.labels(completion.model).observe(sampling.max_tokens)
        try:
            for _ in range(min(completion.at_once, completion.replies)):
                self._begin_next()
        except BaseException:
            self.close()
            raise

    def _begin_next(self) -> None:
        index = len(self._sequences)
        if index < self.completion.replies:
            generation = self._generation(index)
            self._sequences.append(self._engine.submit(generation, self._inbox, index))
            self._open.add(index)

    def _generation(self, index: int) -> Generation:
        completion = self.completion
        sampling = completion.sampling
        prompt = completion.prompts[index // completion.count]
        own = replace(
            sampling,
            seed=(sampling.seed + index) & SEED_MASK,
            max_tokens=min(sampling.max_tokens, completion.language.context_length - len(prompt)),
        )
        return Generation(
            completion.model,
            prompt,
            own,
            completion.share,
            completion.priority,
            completion.queue_share,
        )

    @property
    def usage(self) -> Usage:
        """Tokens counted so far."""
        firsts = self._sequences[:: self.completion.count]
        cached = sum(running.cached for running in firsts)
        return Usage(self.completion.prompt_tokens, self._received, cached)

    @property
    def timing(self) -> Timing:
        """When things happened to the first reply."""
        return self._sequences[0].timing

    async def settle(self, timeout_s: float) -> None:
        """Wait a moment for the first news, so that a refusal still gets its own status."""
        await self._inbox.settle(timeout_s)

    async def events(self, pause_s: float) -> AsyncGenerator[tuple[int, Piece] | Waiting]:
        """Index of a reply and what it adds, until every reply has ended; and signs of
        life, at the latest every ``pause_s`` seconds, at most one a second.

        Raises RequestError when one of them fails.
        """
        waiting = Waiting(0, self.completion.prompt_tokens)
        told = -TELL_PROGRESS_S
        while self._open:
            try:
                arrived = await self._inbox.receive(pause_s)
            except RequestError:
                self._abort_reason = "error"
                raise
            if arrived is None:
                yield waiting
                continue
            index, event = arrived
            if index not in self._open:
                continue
            if isinstance(event, Started | QueuePlace):
                waiting = _waiting(event, waiting)
                now = time.monotonic()
                if now - told >= TELL_PROGRESS_S:
                    told = now
                    yield waiting
                continue
            if isinstance(event, PromptScores):
                yield index, Piece("", prompt=event)
                continue
            if isinstance(event, Embedding):
                yield index, Piece("", embedding=event)
                continue
            piece = self._piece(index, event)
            if piece.finish is not None:
                self.end(index, piece.finish)
                self._begin_next()
            if piece.text or piece.chances or piece.finish:
                yield index, piece

    def _piece(self, index: int, token: Token) -> Piece:
        if self.completion.prompt_only:
            return Piece("", finish="length")
        self._received += 1
        return self._texts[index].push(token)

    def end(self, index: int, reason: str) -> None:
        """One reply is over, by its last token or because no more of it is wanted."""
        self._open.discard(index)
        running = self._sequences[index]
        self._engine.abandon(running)
        self._metrics.finished(
            self.completion.model,
            reason,
            len(running.generation.prompt),
            running.received,
            running.timing,
            time.monotonic(),
        )

    def close(self) -> None:
        """Stop what still runs; its caches are freed in every stage."""
        for index in sorted(self._open):
            self.end(index, self._abort_reason)


def _waiting(news: Started | QueuePlace, before: Waiting) -> Waiting:
    if isinstance(news, QueuePlace):
        return replace(before, position=news.position)
    return Waiting(news.prefilled, news.total)
