"""Masks for replies that must match a grammar, by llguidance, on the tail.

The grammar state belongs to the sequence: it moves with the sequence between lanes, and is
rebuilt from the emitted ids when a request resumes in a later epoch.

Worker threads compute the next mask as soon as a token is sampled. This usually takes 0.1 ms,
but 10 ms in some states of a grammar, and overlaps with the next step.
"""

from __future__ import annotations

import hashlib
import logging
import os
import weakref
from collections import OrderedDict
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
from pomona_stage_worker.sampling.grammar_process import GrammarProcess, GrammarRefusedError

log = logging.getLogger(__name__)

COMPILE_DEADLINE_S = 10.0
MASK_DEADLINE_S = 10.0
MAX_PASSED = 256
"""Number of grammars that are known to compile."""
MASK_THREADS = min(4, os.cpu_count() or 1)


class GrammarError(PomonaError):
    """A grammar allows no token; the gateway should have refused it."""


class GrammarCompiler:
    """Compiles the grammars of one model's sequences in threads of its own.

    A grammar is compiled after a process has compiled it within limits of time and memory. The
    threads and the process end with the last reference to the compiler, which the stage holds.

    Args:
        path: the model's folder or GGUF file. Its vocabulary is read at the first use.
        vocab_size: width of the logits; may exceed the tokenizer's vocabulary.
    """

    def __init__(self, path: Path, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._process = GrammarProcess(path, vocab_size)
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        weakref.finalize(self, self._process.close)
        self._compile_thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._mask_threads = ThreadPoolExecutor(MASK_THREADS, thread_name_prefix="masks")

    def constraint_for(self, op: Open) -> GrammarConstraint:
        """Returns a sequence's constraint, which is compiled while its prompt is prefilled."""
        emitted = op.history[len(op.history) - op.replied :] if op.replied else ()
        stop_ids = op.sampling.stop_ids
        matcher = self._compile_thread.submit(self._compile, op.sampling.grammar, emitted, stop_ids)
        return GrammarConstraint(matcher, self._vocab_size, stop_ids, self._mask_threads)

    @cached_property
    def _vocabulary(self) -> str:
        return self._process.vocabulary()

    def _tokenizer(self, stop_ids: tuple[int, ...]) -> LLTokenizer:
        tokenizer = self._tokenizers.get(stop_ids)
        if tokenizer is None:
            ends = [i for i in stop_ids if i < self._vocab_size] or None
            tokenizer = LLTokenizer(self._vocabulary, n_vocab=self._vocab_size, eos_token=ends)
            self._tokenizers[stop_ids] = tokenizer
        return tokenizer

    @cached_property
    def _tokenizers(self) -> dict[tuple[int, ...], LLTokenizer]:
        return {}

    def _compile(
        self, grammar: str, emitted: Sequence[int], stop_ids: tuple[int, ...]
    ) -> LLMatcher:
        tokenizer = self._tokenizer(stop_ids)
        digest = hashlib.sha256(grammar.encode(errors="surrogatepass")).digest()
        if digest not in self._passed:
            self._process.check(grammar)
            self._passed[digest] = None
            if len(self._passed) > MAX_PASSED:
                self._passed.popitem(last=False)
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        if emitted:
            matcher.consume_tokens(list(emitted))
        return matcher


class GrammarConstraint:
    """One sequence's state in its grammar. Its tasks never overlap: each starts after the previous
    one has ended."""

    def __init__(
        self,
        matcher: Future[LLMatcher],
        vocab_size: int,
        stop_ids: tuple[int, ...],
        mask_threads: Executor,
    ) -> None:
        self._compiling = matcher
        self._mask_threads = mask_threads
        self._mask = allocate_token_bitmask(1, vocab_size)
        self._vocab_size = vocab_size
        self._stop_ids = [i for i in stop_ids if i < vocab_size]
        self._next: Future[NDArray[np.bool_]] | None = None

    def allowed(self) -> NDArray[np.bool_]:
        matcher = self._matcher
        if matcher is None:
            return self._only_stop()
        if self._next is None:
            self._next = self._mask_threads.submit(self._compute_mask, matcher)
        return self._next.result(MASK_DEADLINE_S)

    def accept(self, token: int) -> None:
        if self._next is not None:
            self._next.exception(MASK_DEADLINE_S)
        matcher = self._matcher
        if matcher is not None:
            self._next = self._mask_threads.submit(self._advance, matcher, token)

    @cached_property
    def _matcher(self) -> LLMatcher | None:
        """The compiled grammar; None for one that must not hold up the other sequences."""
        try:
            return self._compiling.result(COMPILE_DEADLINE_S)
        except (GrammarRefusedError, TimeoutError) as error:
            log.warning("a grammar is refused; its reply ends here: %s", error)
            return None

    def _advance(self, matcher: LLMatcher, token: int) -> NDArray[np.bool_]:
        if token not in self._stop_ids:
            matcher.consume_token(token)
        return self._compute_mask(matcher)

    def _compute_mask(self, matcher: LLMatcher) -> NDArray[np.bool_]:
        if not matcher.is_error() and not matcher.is_stopped():
            fill_next_token_bitmask(matcher, self._mask, 0)
            bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
            allowed = bits.reshape(-1)[: self._vocab_size].astype(np.bool_)
            if allowed.any():
                return allowed
        if matcher.is_error():
            # A truncated reply is better than a stream that stalls.
            log.warning("the grammar failed; the reply ends here: %s", matcher.get_error())
        return self._only_stop()

    def _only_stop(self) -> NDArray[np.bool_]:
        if not self._stop_ids:
            raise GrammarError("the grammar is complete, but the request names no stop id")
        allowed = np.zeros(self._vocab_size, dtype=np.bool_)
        allowed[self._stop_ids] = True
        return allowed
