"""The journal delivers each token of a reply once and in order, whatever arrives."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import RequestProgress
from pomona.messages.limits import MAX_REPORTED_REQUESTS
from pomona.messages.pipeline import Rejected, Started, Token
from pomona.messages.sampling import Sampling
from pomona_gateway.pipeline.instructions import (
    Deliver,
    Fail,
    Instruction,
    Send,
    SendCancel,
    SequenceRequest,
)
from pomona_gateway.pipeline.journal import DropReason, Journal
from pomona_gateway.pipeline.prompt_results import Embedding, PromptLogprobs
from pomona_gateway.pipeline.recovery import RecoveryLimits
from pomona_gateway.pipeline.router import Route

LIMITS = RecoveryLimits(first_token_s=10, token_s=5, recovery_s=3, max_attempts=3)
ONE = Route("m", 1, "head", "boot", "tcp://head")
TWO = replace(ONE, epoch=2)
PROMPT = [7, 8, 9]
SAMPLING = Sampling(max_tokens=100)


def submitted(sampling: Sampling = SAMPLING, length: int = len(PROMPT)) -> Journal:
    """Returns a journal in which request ``r`` runs on route ``ONE``."""
    journal = Journal(LIMITS)
    prompt = array("i", range(7, 7 + length))
    [send] = journal.submit("r", SequenceRequest("m", prompt, sampling), ONE, 0.0)
    assert isinstance(send, Send)
    assert (send.attempt, send.ids, send.emitted) == (0, prompt, 0)
    return journal


def token(index: int, attempt: int = 0, finish: bool = False) -> Token:
    return Token("r", attempt, index, 100 + index, "stop" if finish else None)


def delivered(instructions: list[Instruction]) -> list[int]:
    events = [x.event for x in instructions if isinstance(x, Deliver)]
    return [event.index for event in events if isinstance(event, Token)]


def failure(instructions: list[Instruction]) -> str:
    [fail] = [x for x in instructions if isinstance(x, Fail)]
    return fail.error.code


def test_the_last_token_ends_the_request() -> None:
    journal = submitted()
    assert delivered(journal.on_token(token(0), 1)) == [0]
    assert delivered(journal.on_token(token(1, finish=True), 2)) == [1]
    assert len(journal) == 0
    assert journal.on_token(token(2), 3) == []
    assert journal.dropped[DropReason.UNKNOWN] == 1


def test_a_new_epoch_resubmits_prompt_and_reply_as_the_next_attempt() -> None:
    journal = submitted()
    journal.on_token(token(0), 1)
    [send] = journal.on_routes({"m": TWO}, 2)
    assert isinstance(send, Send)
    assert (send.route, send.attempt, send.emitted) == (TWO, 1, 1)
    assert list(send.ids) == [*PROMPT, 100]
    assert journal.on_token(token(1), 3) == []
    assert journal.dropped[DropReason.STALE] == 1
    assert delivered(journal.on_token(token(1, attempt=1), 3)) == [1]


def test_a_failed_epoch_is_not_retried_on_the_same_route() -> None:
    journal = submitted()
    failed = Rejected("r", 0, 503, "epoch_failed", "gone")
    assert journal.on_rejected(failed, 1) == []
    assert journal.on_routes({"m": ONE}, 1.5) == []
    assert journal.on_routes({}, 2) == []
    [send] = journal.on_routes({"m": TWO}, 2)
    assert isinstance(send, Send)


def test_a_route_that_was_withdrawn_serves_again_in_the_same_epoch() -> None:
    journal = submitted()
    journal.on_token(token(0), 1)
    [cancel] = journal.on_routes({}, 1.5)
    assert isinstance(cancel, SendCancel)
    assert (cancel.route, cancel.attempt) == (ONE, 0)
    [send] = journal.on_routes({"m": ONE}, 2)
    assert isinstance(send, Send)
    assert (send.route, send.attempt, send.emitted) == (ONE, 1, 1)


def test_a_route_withdrawn_after_the_heads_rejection_serves_again() -> None:
    journal = submitted()
    journal.on_rejected(Rejected("r", 0, 503, "epoch_failed", "re-formed"), 1)
    assert journal.on_routes({"m": ONE}, 1.5) == []
    assert journal.on_routes({}, 2) == []
    [send] = journal.on_routes({"m": ONE}, 2.5)
    assert isinstance(send, Send)


def test_another_boot_of_the_head_is_another_route() -> None:
    journal = submitted()
    [send] = journal.on_routes({"m": replace(ONE, boot="again")}, 1)
    assert isinstance(send, Send)
    assert send.attempt == 1


def test_a_gap_cancels_the_attempt_and_starts_the_next_on_the_same_route() -> None:
    journal = submitted()
    journal.on_token(token(0), 1)
    cancel, send = journal.on_token(token(2), 2)
    assert cancel == SendCancel(ONE, "r", 0)
    assert isinstance(send, Send)
    assert (send.route, send.attempt, send.emitted) == (ONE, 1, 1)


def test_lost_messages_restart_only_the_attempts_of_their_epoch() -> None:
    journal = submitted()
    assert journal.on_messages_lost(9, 1) == []
    assert [type(x) for x in journal.on_messages_lost(1, 1)] == [SendCancel, Send]


def test_the_number_of_attempts_is_limited() -> None:
    journal = submitted()
    for epoch in (2, 3):
        assert len(journal.on_routes({"m": replace(ONE, epoch=epoch)}, epoch)) == 1
    assert failure(journal.on_routes({"m": replace(ONE, epoch=4)}, 4)) == "pipeline_failed"
    assert len(journal) == 0


def test_a_rejection_fails_the_request_with_the_heads_error() -> None:
    journal = submitted()
    [fail] = journal.on_rejected(Rejected("r", 0, 429, "full", "wait", 9), 1)
    assert isinstance(fail, Fail)
    assert (fail.error.status, fail.error.code, fail.error.retry_after_s) == (429, "full", 9)


def test_a_rejection_of_an_earlier_attempt_is_ignored() -> None:
    journal = submitted()
    journal.on_routes({"m": TWO}, 1)
    assert journal.on_rejected(Rejected("r", 0, 503, "epoch_failed", ""), 2) == []
    assert journal.on_routes({"m": TWO}, 3) == []


@pytest.mark.parametrize("tokens", [0, 1])
def test_an_unsent_submit_waits_for_another_route(tokens: int) -> None:
    journal = submitted()
    for index in range(tokens):
        journal.on_token(token(index), 1)
    assert journal.on_unsent("r", 0, 2) == []
    assert [type(x) for x in journal.on_routes({"m": TWO}, 3)] == [Send]


def test_attempts_that_brought_the_reply_on_are_not_counted() -> None:
    journal = submitted()
    for epoch in range(2, 20):
        journal.on_token(token(epoch - 2, epoch - 2), epoch)
        assert len(journal.on_routes({"m": replace(ONE, epoch=epoch)}, epoch)) == 1
    for epoch in (20, 21):
        assert len(journal.on_routes({"m": replace(ONE, epoch=epoch)}, epoch)) == 1
    assert failure(journal.on_routes({"m": replace(ONE, epoch=22)}, 22)) == "pipeline_failed"


def test_every_wait_has_a_deadline() -> None:
    assert submitted().expire(10.0) == []
    assert failure(submitted().expire(10.1)) == "first_token_timeout"
    journal = submitted()
    journal.on_token(token(0), 9)
    assert journal.expire(13.9) == []
    assert failure(journal.expire(14.1)) == "token_timeout"
    journal = submitted()
    journal.on_routes({}, 2)
    assert journal.expire(4.9) == []
    assert failure(journal.expire(5.1)) == "pipeline_lost"


def test_progress_is_delivered_for_the_current_attempt_only() -> None:
    journal = submitted()
    started = Started("r", 0, 1, 2, 3)
    assert journal.on_progress(started, 1) == [Deliver(started)]
    journal.on_routes({"m": TWO}, 2)
    assert journal.on_progress(started, 3) == []


def test_the_progress_of_prompt_and_reply_is_reported_and_begins_anew_with_an_attempt() -> None:
    journal = submitted()
    assert journal.oldest(2.0) == (RequestProgress("r", "m", 2.0, 3, 0, 0),)
    journal.on_progress(Started("r", 0, 0, 2, 3), 3.0)
    assert journal.oldest(3.0) == (RequestProgress("r", "m", 3.0, 3, 2, 0),)
    journal.on_progress(Started("r", 0, 0, 3, 3), 3.0)
    journal.on_token(token(0), 4.0)
    assert journal.oldest(4.0) == (RequestProgress("r", "m", 4.0, 3, 3, 1),)
    journal.on_routes({"m": TWO}, 5.0)
    assert journal.oldest(5.0) == (RequestProgress("r", "m", 5.0, 3, 0, 1),)


def test_only_the_oldest_requests_are_reported() -> None:
    journal = Journal(LIMITS)
    for number in range(MAX_REPORTED_REQUESTS + 3):
        sequence = SequenceRequest("m", array("i", PROMPT), SAMPLING)
        journal.submit(f"r{number}", sequence, ONE, float(number))
    reported = [progress.request for progress in journal.oldest(100.0)]
    assert reported == [f"r{number}" for number in range(MAX_REPORTED_REQUESTS)]


def test_cancel_reaches_the_head_only_while_an_attempt_runs() -> None:
    assert submitted().cancel("r") == [SendCancel(ONE, "r", 0)]
    assert submitted().cancel("x") == []
    journal = submitted()
    journal.on_routes({}, 1)
    assert journal.cancel("r") == []


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
def test_each_token_is_delivered_once_and_in_order(
    events: list[tuple[str, int, int]],
) -> None:
    journal = submitted()
    out: list[Instruction] = []
    for now, (kind, number, attempt) in enumerate(events):
        match kind:
            case "token":
                out += journal.on_token(token(number, attempt), now)
            case "epoch":
                out += journal.on_routes({"m": replace(ONE, epoch=number)}, now)
            case "failed":
                refused = Rejected("r", number, 503, "epoch_failed", "")
                out += journal.on_rejected(refused, now)
            case _:
                out += journal.on_messages_lost(number, now)
    indexes = delivered(out)
    assert indexes == list(range(len(indexes)))
    sends = [x for x in out if isinstance(x, Send)]
    assert [x.attempt for x in sends] == sorted({x.attempt for x in sends})
    for send in sends:
        assert list(send.ids) == [*PROMPT, *(100 + n for n in range(send.emitted))]
    assert (len(journal) == 0) == any(isinstance(x, Fail) for x in out)


def logprobs(index: int, count: int, attempt: int = 0) -> PromptLogprobs:
    values = tuple(-float(index + n) for n in range(count))
    return PromptLogprobs("r", attempt, index, values, ((),) * count)


def scoring(length: int) -> Journal:
    """Returns a journal whose request wants the log-probabilities of its prompt."""
    return submitted(Sampling(max_tokens=100, prompt_logprobs=0), length)


def test_a_token_before_the_prompts_log_probabilities_is_a_gap() -> None:
    journal = scoring(3)
    assert len(journal.on_prompt_logprobs(logprobs(0, 1), 1)) == 1
    cancel, send = journal.on_token(token(0), 2)
    assert isinstance(cancel, SendCancel)
    assert isinstance(send, Send)
    assert (send.attempt, send.scored, send.emitted) == (1, 1, 0)
    assert len(journal.on_prompt_logprobs(logprobs(1, 1, attempt=1), 3)) == 1
    assert delivered(journal.on_token(token(0, attempt=1), 4)) == [0]


def test_unrequested_log_probabilities_are_dropped() -> None:
    journal = submitted()
    assert journal.on_prompt_logprobs(logprobs(0, 2), 1) == []
    assert scoring(3).on_prompt_logprobs(logprobs(0, 3), 1) == []


SCORING = st.lists(
    st.one_of(
        st.tuples(st.just("scores"), st.integers(0, 8), st.integers(1, 4), st.integers(0, 2)),
        st.tuples(st.just("epoch"), st.integers(1, 4), st.just(0), st.just(0)),
        st.tuples(st.just("gap"), st.integers(1, 4), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(SCORING)
def test_each_log_probability_is_delivered_once_and_in_order(
    events: list[tuple[str, int, int, int]],
) -> None:
    journal = scoring(9)
    out: list[Instruction] = []
    for now, (kind, number, count, attempt) in enumerate(events):
        match kind:
            case "scores":
                out += journal.on_prompt_logprobs(logprobs(number, count, attempt), now)
            case "epoch":
                out += journal.on_routes({"m": replace(ONE, epoch=number)}, now)
            case _:
                out += journal.on_messages_lost(number, now)
    arrived = [x.event for x in out if isinstance(x, Deliver)]
    values = [x for event in arrived if isinstance(event, PromptLogprobs) for x in event.logprobs]
    assert values == [-float(n) for n in range(len(values))]
    assert len(values) <= 8


def embedding(attempt: int = 0) -> Embedding:
    return Embedding("r", attempt, array("f", [1.0]))


def test_an_embedding_is_delivered_once_and_before_the_token() -> None:
    journal = submitted(Sampling(max_tokens=1, embedding=True))
    assert journal.on_embedding(embedding(), 1) == [Deliver(embedding())]
    assert journal.on_embedding(embedding(), 1) == []
    assert journal.dropped[DropReason.DUPLICATE] == 1
    assert delivered(journal.on_token(token(0, finish=True), 2)) == [0]
    assert len(journal) == 0
    assert journal.on_embedding(embedding(), 3) == []
    assert journal.dropped[DropReason.UNKNOWN] == 1


def test_a_token_without_its_embedding_restarts_the_attempt() -> None:
    journal = submitted(Sampling(max_tokens=1, embedding=True))
    again = journal.on_token(token(0, finish=True), 1)
    assert [x.attempt for x in again if isinstance(x, Send)] == [1]
    assert journal.dropped[DropReason.GAP] == 1
    assert journal.on_embedding(embedding(0), 2) == []
    assert journal.dropped[DropReason.STALE] == 1
    assert journal.on_embedding(embedding(1), 2) == [Deliver(embedding(1))]
    assert delivered(journal.on_token(token(0, 1, finish=True), 3)) == [0]


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        (DropReason.UNKNOWN, Token("other", 0, 0, 100)),
        (DropReason.STALE, token(1, attempt=1)),
        (DropReason.DUPLICATE, token(0)),
    ],
)
def test_every_dropped_message_is_counted_by_its_reason(reason: DropReason, event: Token) -> None:
    journal = submitted()
    journal.on_token(token(0), 1)
    for count in (1, 2, 3):
        assert journal.on_token(event, 2) == []
        assert journal.dropped == {reason: count}


def test_every_gap_is_counted() -> None:
    journal = submitted()
    for attempt in (0, 1):
        journal.on_token(token(5, attempt), 1)
        assert journal.dropped == {DropReason.GAP: attempt + 1}
    journal = scoring(5)
    for attempt in (0, 1):
        journal.on_prompt_logprobs(logprobs(2, 1, attempt), 1)
        assert journal.dropped == {DropReason.GAP: attempt + 1}


def test_every_duplicate_prompt_result_is_counted() -> None:
    journal = submitted(Sampling(max_tokens=1, embedding=True, prompt_logprobs=0))
    journal.on_prompt_logprobs(logprobs(0, 1), 1)
    journal.on_embedding(embedding(), 1)
    for count in (1, 3):
        journal.on_prompt_logprobs(logprobs(0, 1), 1)
        assert journal.dropped == {DropReason.DUPLICATE: count}
        journal.on_embedding(embedding(), 1)
        assert journal.dropped == {DropReason.DUPLICATE: count + 1}


def test_answers_that_pause_are_counted_with_their_longest_pause() -> None:
    journal = submitted()
    journal.on_token(token(0), 2.0)
    prompt = array("i", PROMPT)
    journal.submit("waits", SequenceRequest("m", prompt, SAMPLING), ONE, 2.0)
    assert journal.paused == 0
    journal.on_routes({}, 3.0)
    assert journal.paused == 1, "a request without a token has not paused"
    journal.on_routes({"m": TWO}, 4.0)
    assert (journal.paused, journal.pauses.resumed) == (1, 0)
    journal.on_token(token(1, attempt=1), 7.5)
    assert (journal.paused, journal.pauses.resumed, journal.pauses.longest_s) == (0, 1, 5.5)
    journal.on_routes({}, 9.0)
    assert journal.pauses.longest_s == 0.0, "the next pause is measured anew"
    journal.cancel("r")
    assert (journal.paused, journal.pauses.resumed) == (0, 1)
