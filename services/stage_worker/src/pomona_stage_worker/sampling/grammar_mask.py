"""Replies that must match a grammar, by llguidance, on the tail.

The state of a grammar belongs to the sequence: it follows it through lanes, and is made
again from the ids that were emitted when a request goes on in a later epoch.

What may come next is found by threads of its own, beginning as soon as a token is drawn: it
takes a tenth of a millisecond mostly, but ten in some places of a grammar, and is hidden behind
the computation of the next step.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from pomona.errors import PomonaError
from pomona.messages.cache_ops import Open
from pomona.models.formats.vocabulary import read_vocabulary

log = logging.getLogger(__name__)

COMPILE_DEADLINE_S = 10.0
MASK_DEADLINE_S = 10.0
MASK_THREADS = min(4, os.cpu_count() or 1)


class GrammarError(PomonaError):
    """A grammar could not be followed; the gateway should have refused it."""


class Grammars:
    """Makes the constraints of one model's sequences, beside the thread that runs the steps.

    Its threads end with the last reference to it, which the stage of an epoch holds.

    Args:
        path: the model's folder or GGUF file, for its vocabulary; read at the first use.
        vocab_size: width of the logits, which may be more than the tokenizer knows.
    """

    def __init__(self, path: Path, vocab_size: int) -> None:
        self._path = path
        self._vocab_size = vocab_size
        self._compilers = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._followers = ThreadPoolExecutor(MASK_THREADS, thread_name_prefix="masks")

    def begin(self, op: Open) -> GrammarConstraint:
        """The constraint of a sequence; compiled while its prompt is read."""
        emitted = op.history[len(op.history) - op.replied :] if op.replied else ()
        stop_ids = op.sampling.stop_ids
        matcher = self._compilers.submit(self._compile, op.sampling.grammar, emitted, stop_ids)
        return GrammarConstraint(matcher, self._vocab_size, stop_ids, self._followers)

    @cached_property
    def _rules(self) -> str:
        return read_vocabulary(self._path).to_str()

    def _tokenizer(self, stop_ids: tuple[int, ...]) -> LLTokenizer:
        known = self._tokenizers.get(stop_ids)
        if known is None:
            ends = [i for i in stop_ids if i < self._vocab_size] or None
            known = LLTokenizer(self._rules, n_vocab=self._vocab_size, eos_token=ends)
            self._tokenizers[stop_ids] = known
        return known

    @cached_property
    def _tokenizers(self) -> dict[tuple[int, ...], LLTokenizer]:
        return {}

    def _compile(
        self, grammar: str, emitted: Sequence[int], stop_ids: tuple[int, ...]
    ) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer(stop_ids), grammar, log_level=0)
        if emitted:
            matcher.consume_tokens(list(emitted))
        return matcher


class GrammarConstraint:
    """One sequence's place in its grammar. One thread at a time follows it: none begins before
    the last one has ended."""

    def __init__(
        self,
        matcher: Future[LLMatcher],
        vocab_size: int,
        stop_ids: tuple[int, ...],
        followers: Executor,
    ) -> None:
        self._compiling = matcher
        self._followers = followers
        self._mask = allocate_token_bitmask(1, vocab_size)
        self._vocab_size = vocab_size
        self._stop_ids = [i for i in stop_ids if i < vocab_size]
        self._next: Future[NDArray[np.bool_]] | None = None

    def allowed(self) -> NDArray[np.bool_]:
        if self._next is None:
            self._next = self._followers.submit(self._find, self._matcher)
        return self._next.result(MASK_DEADLINE_S)

    def accept(self, token: int) -> None:
        if self._next is not None:
            self._next.exception(MASK_DEADLINE_S)
        self._next = self._followers.submit(self._follow, self._matcher, token)

    @cached_property
    def _matcher(self) -> LLMatcher:
        return self._compiling.result(COMPILE_DEADLINE_S)

    def _follow(self, matcher: LLMatcher, token: int) -> NDArray[np.bool_]:
        if token not in self._stop_ids:
            matcher.consume_token(token)
        return self._find(matcher)

    def _find(self, matcher: LLMatcher) -> NDArray[np.bool_]:
        if not matcher.is_error() and not matcher.is_stopped():
            fill_next_token_bitmask(matcher, self._mask, 0)
            bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
            allowed = bits.reshape(-1)[: self._vocab_size].astype(np.bool_)
            if allowed.any():
                return allowed
        if matcher.is_error():
            # A reply that broke off is better than a stream that stands still.
            log.warning("a grammar cannot be followed further: %s", matcher.get_error())
        if not self._stop_ids:
            raise GrammarError("the grammar is at its end, and the request names no stop id")
        allowed = np.zeros(self._vocab_size, dtype=np.bool_)
        allowed[self._stop_ids] = True
        return allowed
