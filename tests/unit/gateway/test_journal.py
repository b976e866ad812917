"""The journal: whatever the links do, a reply is each of its tokens once and in order."""

from __future__ import annotations

from array import array
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.pipeline import Rejected, Started, Token
from pomona.messages.sampling import Sampling
from pomona_gateway.pipeline.embedding import Embedding
from pomona_gateway.pipeline.journal import (
    Deliver,
    DeliverEmbedding,
    DeliverScores,
    Fail,
    Instruction,
    Journal,
    JournalLimits,
    Progress,
    Send,
    SendCancel,
    opened,
)
from pomona_gateway.pipeline.prompt_results import PromptScores
from pomona_gateway.pipeline.router import Route

LIMITS = JournalLimits(first_token_s=10, token_s=5, recovery_s=3, max_attempts=3)
ONE = Route("m", 1, "head", "boot", "tcp://head")
TWO = replace(ONE, epoch=2)
PROMPT = [7, 8, 9]


def begun() -> Journal:
    journal = Journal(LIMITS)
    entry = opened("r", "m", PROMPT, Sampling(max_tokens=100), 0.0)
    [send] = journal.open(entry, ONE)
    assert isinstance(send, Send)
    assert (send.attempt, list(send.ids), send.emitted) == (0, PROMPT, 0)
    return journal


def token(index: int, attempt: int = 0, finish: bool = False) -> Token:
    return Token("r", attempt, index, 100 + index, "stop" if finish else None)


def delivered(instructions: list[Instruction]) -> list[int]:
    return [x.token.index for x in instructions if isinstance(x, Deliver)]


def failure(instructions: list[Instruction]) -> str:
    [fail] = [x for x in instructions if isinstance(x, Fail)]
    return fail.error.code


def test_the_last_token_ends_the_request() -> None:
    journal = begun()
    assert delivered(journal.token(token(0), 1)) == [0]
    assert delivered(journal.token(token(1, finish=True), 2)) == [1]
    assert len(journal) == 0
    assert journal.token(token(2), 3) == []
    assert journal.dropped.unknown == 1


def test_a_new_epoch_resubmits_prompt_and_reply_as_the_next_attempt() -> None:
    journal = begun()
    journal.token(token(0), 1)
    [send] = journal.routed({"m": TWO}, 2)
    assert isinstance(send, Send)
    assert (send.route, send.attempt, send.emitted) == (TWO, 1, 1)
    assert list(send.ids) == [*PROMPT, 100]
    assert journal.token(token(1), 3) == []
    assert journal.dropped.stale == 1
    assert delivered(journal.token(token(1, attempt=1), 3)) == [1]


def test_a_failed_epoch_is_not_tried_again_before_another_route_comes() -> None:
    journal = begun()
    failed = Rejected("r", 0, 503, "epoch_failed", "gone")
    assert journal.rejected(failed, 1) == []
    assert journal.routed({"m": ONE}, 1.5) == []
    assert journal.routed({}, 2) == []
    [send] = journal.routed({"m": TWO}, 2)
    assert isinstance(send, Send)


def test_another_boot_of_the_head_is_another_route() -> None:
    journal = begun()
    [send] = journal.routed({"m": replace(ONE, boot="again")}, 1)
    assert isinstance(send, Send)
    assert send.attempt == 1


def test_a_gap_cancels_the_attempt_and_begins_the_next_on_the_same_route() -> None:
    journal = begun()
    journal.token(token(0), 1)
    cancel, send = journal.token(token(2), 2)
    assert cancel == SendCancel(ONE, "r", 0)
    assert isinstance(send, Send)
    assert (send.route, send.attempt, send.emitted) == (ONE, 1, 1)


def test_lost_messages_of_a_link_begin_only_the_attempts_of_their_epoch_anew() -> None:
    journal = begun()
    assert journal.messages_lost(9, 1) == []
    assert [type(x) for x in journal.messages_lost(1, 1)] == [SendCancel, Send]


def test_attempts_are_bounded() -> None:
    journal = begun()
    for epoch in (2, 3):
        assert len(journal.routed({"m": replace(ONE, epoch=epoch)}, epoch)) == 1
    assert failure(journal.routed({"m": replace(ONE, epoch=4)}, 4)) == "pipeline_failed"
    assert len(journal) == 0


def test_another_refusal_fails_the_request_with_the_heads_own_words() -> None:
    journal = begun()
    [fail] = journal.rejected(Rejected("r", 0, 429, "full", "wait", 9), 1)
    assert isinstance(fail, Fail)
    assert (fail.error.status, fail.error.code, fail.error.retry_after_s) == (429, "full", 9)


def test_a_refusal_of_an_earlier_attempt_changes_nothing() -> None:
    journal = begun()
    journal.routed({"m": TWO}, 1)
    assert journal.rejected(Rejected("r", 0, 503, "epoch_failed", ""), 2) == []
    assert journal.routed({"m": TWO}, 3) == []


def test_an_unsent_submit_fails_before_the_first_token_and_waits_after_it() -> None:
    assert failure(begun().unsent("r", 0, 1)) == "pipeline_busy"
    journal = begun()
    journal.token(token(0), 1)
    assert journal.unsent("r", 0, 2) == []
    assert [type(x) for x in journal.routed({"m": TWO}, 3)] == [Send]


def test_deadlines_bound_every_wait() -> None:
    assert begun().expire(10.0) == []
    assert failure(begun().expire(10.1)) == "first_token_timeout"
    journal = begun()
    journal.token(token(0), 9)
    assert journal.expire(13.9) == []
    assert failure(journal.expire(14.1)) == "token_timeout"
    journal = begun()
    journal.routed({}, 2)
    assert journal.expire(4.9) == []
    assert failure(journal.expire(5.1)) == "pipeline_lost"


def test_progress_of_the_current_attempt_is_told() -> None:
    journal = begun()
    started = Started("r", 0, 1, 2, 3)
    assert journal.progress(started, 1) == [Progress(started)]
    journal.routed({"m": TWO}, 2)
    assert journal.progress(started, 3) == []


def test_closing_cancels_what_runs_and_nothing_else() -> None:
    assert begun().close("r") == [SendCancel(ONE, "r", 0)]
    assert begun().close("x") == []
    journal = begun()
    journal.routed({}, 1)
    assert journal.close("r") == []


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("token"), st.integers(0, 6), st.integers(0, 3)),
        st.tuples(st.just("epoch"), st.integers(1, 9), st.just(0)),
        st.tuples(st.just("failed"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("gap"), st.integers(1, 9), st.just(0)),
    ),
    max_size=40,
)


@given(EVENTS)
def test_whatever_arrives_the_client_gets_each_token_once_and_in_order(
    events: list[tuple[str, int, int]],
) -> None:
    journal = begun()
    out: list[Instruction] = []
    for now, (kind, number, attempt) in enumerate(events):
        match kind:
            case "token":
                out += journal.token(token(number, attempt), now)
            case "epoch":
                out += journal.routed({"m": replace(ONE, epoch=number)}, now)
            case "failed":
                refused = Rejected("r", number, 503, "epoch_failed", "")
                out += journal.rejected(refused, now)
            case _:
                out += journal.messages_lost(number, now)
    indexes = delivered(out)
    assert indexes == list(range(len(indexes)))
    sends = [x for x in out if isinstance(x, Send)]
    assert [x.attempt for x in sends] == sorted({x.attempt for x in sends})
    assert all(x.attempt < LIMITS.max_attempts for x in sends)
    for send in sends:
        assert list(send.ids) == [*PROMPT, *(100 + n for n in range(send.emitted))]
    assert (len(journal) == 0) == any(isinstance(x, Fail) for x in out)


def scores(index: int, count: int, attempt: int = 0) -> PromptScores:
    logprobs = tuple(-float(index + n) for n in range(count))
    return PromptScores("r", attempt, index, logprobs, ((),) * count)


def asking(length: int) -> Journal:
    journal = Journal(LIMITS)
    sampling = Sampling(max_tokens=100, prompt_logprobs=0)
    journal.open(opened("r", "m", range(length), sampling, 0.0), ONE)
    return journal


def test_a_token_that_comes_before_a_prompts_log_probabilities_is_a_gap() -> None:
    journal = asking(3)
    assert len(journal.scored(scores(0, 1), 1)) == 1
    cancel, send = journal.token(token(0), 2)
    assert isinstance(cancel, SendCancel)
    assert isinstance(send, Send)
    assert (send.attempt, send.scored, send.emitted) == (1, 1, 0)
    assert len(journal.scored(scores(1, 1, attempt=1), 3)) == 1
    assert delivered(journal.token(token(0, attempt=1), 4)) == [0]


def test_log_probabilities_that_nobody_asked_for_are_dropped() -> None:
    journal = begun()
    assert journal.scored(scores(0, 2), 1) == []
    assert asking(3).scored(scores(0, 3), 1) == []


SCORING = st.lists(
    st.one_of(
        st.tuples(st.just("scores"), st.integers(0, 8), st.integers(1, 4), st.integers(0, 2)),
        st.tuples(st.just("epoch"), st.integers(1, 4), st.just(0), st.just(0)),
        st.tuples(st.just("gap"), st.integers(1, 4), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(SCORING)
def test_whatever_arrives_each_log_probability_comes_once_and_in_order(
    events: list[tuple[str, int, int, int]],
) -> None:
    journal = asking(9)
    out: list[Instruction] = []
    for now, (kind, number, count, attempt) in enumerate(events):
        match kind:
            case "scores":
                out += journal.scored(scores(number, count, attempt), now)
            case "epoch":
                out += journal.routed({"m": replace(ONE, epoch=number)}, now)
            case _:
                out += journal.messages_lost(number, now)
    told = [x for part in out if isinstance(part, DeliverScores) for x in part.scores.logprobs]
    assert told == [-float(n) for n in range(len(told))]
    assert len(told) <= 8


def embedding(attempt: int = 0) -> Embedding:
    return Embedding("r", attempt, array("f", [1.0]))


def test_an_embedding_comes_once_and_before_the_token() -> None:
    journal = Journal(LIMITS)
    sampling = Sampling(max_tokens=1, embedding=True)
    journal.open(opened("r", "m", PROMPT, sampling, 0.0), ONE)
    assert journal.embedded(embedding(), 1) == [DeliverEmbedding(embedding())]
    assert journal.embedded(embedding(), 1) == []
    assert journal.dropped.duplicate == 1
    assert delivered(journal.token(token(0, finish=True), 2)) == [0]
    assert len(journal) == 0
    assert journal.embedded(embedding(), 3) == []
    assert journal.dropped.unknown == 1


def test_a_token_without_its_embedding_is_asked_for_again() -> None:
    journal = Journal(LIMITS)
    sampling = Sampling(max_tokens=1, embedding=True)
    journal.open(opened("r", "m", PROMPT, sampling, 0.0), ONE)
    again = journal.token(token(0, finish=True), 1)
    assert [x.attempt for x in again if isinstance(x, Send)] == [1]
    assert journal.dropped.gap == 1
    assert journal.embedded(embedding(0), 2) == []
    assert journal.dropped.stale == 1
    assert journal.embedded(embedding(1), 2) == [DeliverEmbedding(embedding(1))]
    assert delivered(journal.token(token(0, 1, finish=True), 3)) == [0]
