"""The choices of one completion (``n`` > 1 or several prompts), generated side by side."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from pomona.errors import RequestError
from pomona.messages.pipeline import QueuePlace, Started, Token
from pomona_gateway.generation.completion import Completion, Usage
from pomona_gateway.generation.detokenizer import Detokenizer, ReplyDelta
from pomona_gateway.metrics import Metrics, Timing
from pomona_gateway.pipeline.client import PipelineClient, RunningSequence
from pomona_gateway.pipeline.inbox import Inbox
from pomona_gateway.pipeline.instructions import SequenceRequest
from pomona_gateway.pipeline.prompt_results import Embedding, PromptLogprobs
from pomona_gateway.runs.run import RecordedSequences
from pomona_gateway.runs.run_context import current_run

PROGRESS_INTERVAL_S = 1.0
"""Minimum seconds between two reports on the progress of a prompt."""


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """Progress of a prompt, while there is no new text.

    Attributes:
        prefilled: prompt tokens processed, of ``total``.
        position: position in the head's queue, where 1 is next; 0 if prefill has started or the
            head has not reported a position.
    """

    prefilled: int
    total: int
    position: int = 0

    def __str__(self) -> str:
        """Text for the comments of a stream."""
        if self.position:
            return f"queued at {self.position}"
        return f"prompt {self.prefilled}/{self.total}"


class GenerationStream:
    """Runs the choices of a completion and decodes their tokens.

    The owner must call :meth:`close`, or the choices go on.
    """

    def __init__(self, pipelines: PipelineClient, metrics: Metrics, completion: Completion) -> None:
        """Submits the first choices. Raises RequestError when one cannot start now.

        Within a run, a former gateway's choices go on after their recorded tokens.
        """
        self.completion = completion
        self._pipelines = pipelines
        self._metrics = metrics
        self._inbox = Inbox()
        self._received = 0
        self._sequences: list[RunningSequence] = []
        self._open: set[int] = set()
        self._ended = 0
        self._run = current_run()
        self._replayed = 0
        self._abort_reason = "abort"
        self._progress = PromptProgress(0, completion.prompt_tokens)
        self._reported_at = -PROGRESS_INTERVAL_S
        stop_ids = frozenset(completion.sampling.stop_ids)
        self._detokenizers = [
            Detokenizer(
                completion.language.tokenizer,
                completion.stops,
                stop_ids,
                completion.visible_tokens,
            )
            for _ in range(completion.choice_count)
        ]
        metrics.request_n.labels(completion.model).observe(completion.n)
        metrics.request_max_tokens.labels(completion.model).observe(completion.sampling.max_tokens)
        try:
            if self._run is not None and self._run.recorded is not None:
                recorded, self._run.recorded = self._run.recorded, None
                self._resume(recorded)
            self._submit_next()
        except BaseException:
            self.close()
            raise

    @property
    def usage(self) -> Usage:
        """Tokens used so far."""
        first_choices = self._sequences[:: self.completion.n]
        cached = sum(running.cached for running in first_choices)
        guesses = [counts for running in self._sequences for counts in running.guesses.values()]
        return Usage(
            self.completion.prompt_tokens,
            self._received,
            cached,
            accepted=sum(accepted for accepted, _ in guesses),
            rejected=sum(rejected for _, rejected in guesses),
        )

    @property
    def timing(self) -> Timing:
        """Timing of the first choice."""
        return self._sequences[0].timing

    async def wait_for_first(self, timeout_s: float) -> None:
        """Waits up to ``timeout_s`` seconds for the first event.

        Raises:
            RequestError: the pipeline rejected the request. The HTTP response has not started
                yet, so the client gets the status of the error.
        """
        await self._inbox.wait_for_first(timeout_s)

    async def receive(self, pause_s: float) -> tuple[int, ReplyDelta] | PromptProgress | None:
        """Waits for the next delta of any choice.

        Returns:
            Index of the choice and its delta; or the progress of the prompt, after ``pause_s``
            seconds without a delta and at most once a second when it changes; or None when all
            choices have ended.

        Raises:
            RequestError: a choice failed.
        """
        while self._open:
            try:
                arrived = await self._inbox.receive(pause_s)
            except RequestError:
                self._abort_reason = "error"
                raise
            if arrived is None:
                return self._progress
            index, event = arrived
            if index not in self._open:
                continue
            if isinstance(event, Started | QueuePlace):
                self._update_progress(event)
                now = time.monotonic()
                if now - self._reported_at >= PROGRESS_INTERVAL_S:
                    self._reported_at = now
                    return self._progress
                continue
            delta = self._decode(index, event)
            if not delta.is_empty:
                return index, delta
        return None

    async def events(
        self, pause_s: float
    ) -> AsyncGenerator[tuple[int, ReplyDelta] | PromptProgress]:
        """Yields what :meth:`receive` returns, until all choices have ended."""
        while (event := await self.receive(pause_s)) is not None:
            yield event

    def finish(self, index: int, reason: str) -> None:
        """Ends one choice, after its last token or because the rest is not wanted."""
        self._open.discard(index)
        running = self._sequences[index]
        self._pipelines.cancel(running)
        self._metrics.observe_end(
            self.completion.model,
            reason,
            len(running.sequence.prompt),
            running.received,
            running.timing,
            time.monotonic(),
        )

    def close(self) -> None:
        """Cancels the choices that still run and frees their KV caches."""
        for index in sorted(self._open):
            self.finish(index, self._abort_reason)

    def _submit_next(self) -> None:
        """Submits choices until as many run as may, or none is left."""
        goal = min(self.completion.choice_count, self.completion.max_concurrent + self._ended)
        while (index := len(self._sequences)) < goal:
            sequence = self.completion.sequence(index)
            if self._run is not None and _is_recorded(sequence):
                self._run.recorder.sequence(self._run, index, sequence)
            self._sequences.append(self._pipelines.submit(sequence, self._inbox, index))
            self._open.add(index)

    def _resume(self, recorded: RecordedSequences) -> None:
        """Replays the recorded tokens of all choices in their order, and submits what is open."""
        tokens: list[list[Token]] = []
        for index in range(self.completion.choice_count):
            if index not in recorded.sequences:
                break
            tokens.append([])
        for index, token in recorded.tokens:
            # A token whose predecessor is missing is generated again.
            if index < len(tokens) and token.index == len(tokens[index]):
                tokens[index].append(token)
                self._inbox.put(index, token)
                self._replayed += 1
        for index, replayed in enumerate(tokens):
            before = recorded.sequences[index]
            sequence = replace(
                self.completion.sequence(index), prompt=before.prompt, sampling=before.sampling
            )
            running = self._pipelines.submit(sequence, self._inbox, index, replayed)
            running.cached = recorded.cached.get(index, 0)
            self._sequences.append(running)
            self._open.add(index)

    def _record(self, index: int, token: Token) -> None:
        if self._replayed:
            self._replayed -= 1
        elif self._run is not None and _is_recorded(self._sequences[index].sequence):
            if token.index == 0:
                self._run.recorder.cached(self._run, index, self._sequences[index].cached)
            self._run.recorder.token(self._run, index, token)

    def _decode(self, index: int, event: Token | PromptLogprobs | Embedding) -> ReplyDelta:
        match event:
            case PromptLogprobs():
                return ReplyDelta("", prompt_logprobs=event)
            case Embedding():
                return ReplyDelta("", embedding=event)
            case _ if self.completion.prompt_only:
                delta = ReplyDelta("", finish="length")
            case _:
                self._record(index, event)
                self._received += 1
                delta = self._detokenizers[index].push(event)
        if delta.finish is not None:
            self.finish(index, delta.finish)
            self._ended += 1
            self._submit_next()
        return delta

    def _update_progress(self, event: Started | QueuePlace) -> None:
        if isinstance(event, QueuePlace):
            self._progress = replace(self._progress, position=event.position)
        else:
            self._progress = PromptProgress(event.prefilled, event.total)


def _is_recorded(sequence: SequenceRequest) -> bool:
    """Results of a prompt are not recorded, so its reply starts over in another gateway."""
    return sequence.sampling.prompt_logprobs is None and not sequence.sampling.embedding
