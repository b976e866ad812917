"""A source of guesses that runs a small model in a thread of its own.

The step thread never waits for it: it takes the guesses that are there and says which text they
follow. The draft thread reads that text, stays a few tokens ahead of what was taken, and wakes the
step thread when a guess comes that it lacked.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pomona.errors import ModelError
from pomona.models.draft_models import DRAFT_MODEL, DRAFT_SEQUENCES
from pomona_stage_worker.drafting.continuation import Continuation, can_continue
from pomona_stage_worker.slicing import StageModel
from pomona_stage_worker.speculation.draft import Proposal

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""Time after which a waiting thread gets the interpreter; 5 ms by default, as long as a step."""
CLOSE_DEADLINE_S = 10.0
WARMUP_STEPS = 4
_BLEND = 0.1
"""Weight of a new measurement in the moving average."""


@dataclass(eq=False, slots=True)
class Order:
    """The guesses that the step thread wants for a sequence.

    Attributes:
        text: the last tokens that the guesses follow; never changed.
        start: position of the first of them in the sequence.
        until: position up to which guesses are wanted.
        guesses: what follows ``text``, appended by the draft thread.
        is_over: whether no more guesses will come.
    """

    text: Sequence[int]
    start: int
    until: int
    guesses: list[int] = field(default_factory=list[int])
    is_over: bool = False

    @property
    def begin(self) -> int:
        """Position of the first guess."""
        return self.start + len(self.text)

    @property
    def is_open(self) -> bool:
        return not self.is_over and self.begin + len(self.guesses) < self.until


class DraftModelSource:
    """Runs the model, and gives each sequence a drafter.

    Args:
        make_model: builds the model, in the draft thread.
        vocabulary: number of token ids of the large model; 0 when unknown.
        context: tokens at the end of a text that are always read, and at most twice as many.
        ahead: guesses to make beyond those that were asked for.
        wake: called from the draft thread when a guess came that a drafter had lacked.

    Attributes:
        guess_us: time of a guess, microseconds; 0 before the first one.
        failure: why there are no more guesses; empty while it works.
    """

    name = DRAFT_MODEL
    priors = (0.6,)

    def __init__(
        self,
        make_model: Callable[[], StageModel],
        vocabulary: int,
        context: int,
        ahead: int,
        wake: Callable[[], None],
    ) -> None:
        self.guess_us = 0.0
        self.failure = ""
        self.context = context
        self.ahead = ahead
        self.changed = threading.Condition()
        self._make_model = make_model
        self._vocabulary = vocabulary
        self._wake = wake
        self._drafters: list[DraftModelDrafter] = []
        self._is_closing = False
        self._turn = 0
        self._thread = threading.Thread(target=self._run, name="drafts", daemon=True)

    def start(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._thread.start()

    def close(self, wait: bool = True) -> None:
        """Ends the thread after its present token, which frees the model."""
        with self.changed:
            self._is_closing = True
            self.changed.notify_all()
        if wait and self._thread.is_alive():
            self._thread.join(CLOSE_DEADLINE_S)

    @property
    def is_at_rest(self) -> bool:
        """True when all guesses that were asked for are made."""
        with self.changed:
            orders = [drafter.order for drafter in self._drafters]
            return not any(order is not None and order.is_open for order in orders)

    def drafter(
        self, seq: int, tenant: str, prompt: int, prediction: Sequence[int]
    ) -> DraftModelDrafter:
        drafter = DraftModelDrafter(self)
        with self.changed:
            self._drafters.append(drafter)
        return drafter

    def forget(self, drafter: DraftModelDrafter) -> None:
        """Removes the drafter of a sequence that has ended."""
        with self.changed:
            if drafter in self._drafters:
                self._drafters.remove(drafter)

    # In the draft thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            model = self._make_model()
            if not can_continue(model):
                raise ModelError("its caches cannot be cut after a wrong guess")
            self._warm_up(model)
            texts = [_DraftText(Continuation(model)) for _ in range(DRAFT_SEQUENCES)]
            while (text := self._next_text(texts)) is not None:
                self._advance(text)
        except ModelError as error:
            self._fail(str(error))
        except Exception as error:  # a model can raise anything; only its guesses end
            log.exception("the draft model failed")
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        log.error("no guesses from the draft model: %s", reason)
        self.failure = reason
        self.guess_us = 0.0

    def _warm_up(self, model: StageModel) -> None:
        continuation = Continuation(model)
        continuation.follow([0])
        for _ in range(WARMUP_STEPS):
            began = time.perf_counter()
            continuation.advance()
            self.guess_us = 1e6 * (time.perf_counter() - began)

    def _next_text(self, texts: list[_DraftText]) -> _DraftText | None:
        """Waits for an order. Returns the text to advance, the one that waited longest; None when
        the source is closed."""
        with self.changed:
            while not self._is_closing:
                for text in texts:
                    if text.drafter not in self._drafters:
                        text.drafter = None
                self._assign([text for text in texts if text.drafter is None])
                waiting = [text for text in texts if text.wanted is not None]
                if waiting:
                    return min(waiting, key=lambda text: text.turn)
                self.changed.wait()
            return None

    def _assign(self, free: list[_DraftText]) -> None:
        """Gives drafters without a text the free ones, those with most of their tokens first."""
        taken = {id(drafter) for drafter in self._drafters if drafter.has_text}
        for drafter in self._drafters:
            order = drafter.order
            if not free or order is None or id(drafter) in taken:
                continue
            best = _most_shared(free, order.text)
            free.remove(best)
            best.drafter = drafter
            drafter.has_text = True

    def _advance(self, text: _DraftText) -> None:
        """Reads a chunk of an order's text, or makes one guess."""
        drafter, order = text.drafter, text.wanted
        if drafter is None or order is None:
            return
        continuation = text.continuation
        if text.order is not order:
            continuation.follow(order.text)
            text.order = order
        is_single = continuation.unread == 1
        began = time.perf_counter()
        token = continuation.advance()
        if is_single:
            elapsed_us = 1e6 * (time.perf_counter() - began)
            self.guess_us += _BLEND * (elapsed_us - self.guess_us)
        with self.changed:
            self._turn += 1
            text.turn = self._turn
            if token is None:
                return
            if 0 < self._vocabulary <= token:
                order.is_over = True
                return
            order.guesses.append(token)
            drafter.offers += 1
            is_lacking, drafter.is_lacking = drafter.is_lacking, False
        if is_lacking:
            self._wake()


class DraftModelDrafter:
    """Orders the guesses of one sequence. Used by the step thread, except as noted.

    Attributes:
        offers: guesses that were made; written by the draft thread.
        is_lacking: whether fewer guesses were there than asked for.
        order: what is wanted; None when nothing is.
        has_text: whether it has caches; the draft thread's.
    """

    def __init__(self, source: DraftModelSource) -> None:
        self.offers = 0
        self.is_lacking = False
        self.order: Order | None = None
        self.has_text = False
        self._source = source

    def propose(self, tokens: Sequence[int], guesses: Sequence[int], count: int) -> list[Proposal]:
        source = self._source
        if source.failure:
            return []
        position = len(tokens) + len(guesses)
        order = self.order
        if order is None or not _follows(order, tokens, guesses):
            start = _first_read(position, source.context)
            order = Order([*tokens[start:], *guesses], start, position)
        with source.changed:
            self.order = order
            order.until = max(order.until, position + count + source.ahead)
            first = position - order.begin
            found = order.guesses[first : first + count]
            self.is_lacking = len(found) < count
            source.changed.notify_all()
        return [Proposal(token, DRAFT_MODEL) for token in found]

    def missed(self) -> None:
        with self._source.changed:
            self.order = None

    def close(self) -> None:
        self._source.forget(self)


@dataclass(eq=False, slots=True)
class _DraftText:
    """A text in caches, and the drafter whose text it is.

    Attributes:
        order: the order that the text follows.
        turn: number of its last chunk or guess.
    """

    continuation: Continuation
    drafter: DraftModelDrafter | None = None
    order: Order | None = None
    turn: int = 0

    @property
    def wanted(self) -> Order | None:
        """The drafter's order if it wants more guesses."""
        order = None if self.drafter is None else self.drafter.order
        return order if order is not None and order.is_open else None


def _most_shared(texts: Sequence[_DraftText], wanted: Sequence[int]) -> _DraftText:
    """Returns the text with most of the wanted tokens in its caches; of equal ones the oldest."""
    return max(texts, key=lambda text: (text.continuation.shared(wanted), -text.turn))


def _first_read(position: int, context: int) -> int:
    """Returns the first token to read of a text of ``position`` tokens. It moves by whole
    ``context`` tokens, since the caches are computed again when it does."""
    return max(position // context - 1, 0) * context


def _follows(order: Order, tokens: Sequence[int], guesses: Sequence[int]) -> bool:
    """Returns whether a text is that of the order and then its first guesses."""
    count = len(tokens) + len(guesses) - order.begin
    if not 0 <= count <= len(order.guesses):
        return False
    tail = [*tokens[order.begin :], *guesses][-count:] if count else []
    return tail == order.guesses[:count]
