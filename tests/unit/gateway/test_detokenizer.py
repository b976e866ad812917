"""The text of a reply is the decoding of its ids, without any part of a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.messages.pipeline import FinishReason, Token
from pomona_gateway.generation.detokenizer import Detokenizer, ReplyDelta, StopScanner
from support.models.tiny_model import end_id, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
END = end_id()
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


@given(st.lists(st.text("abc", max_size=4), max_size=12), STOPS)
def test_only_the_text_before_the_first_stop_string_is_released(
    pieces: list[str], stops: list[str]
) -> None:
    scanner = StopScanner(stops)
    whole = "".join(pieces)
    out, stopped = "", None
    for piece in pieces:
        released, stopped = scanner.push(piece)
        out += released
        if stopped is not None:
            break
    if stopped is None:
        out += scanner.flush()
    # The scanner gets one piece at a time, so the stop string that ends first counts.
    ends = [(at + len(s), at) for s in stops if (at := whole.find(s)) >= 0]
    assert (stopped is not None) == bool(ends)
    if not ends:
        assert out == whole
    else:
        assert whole.startswith(out)
        assert not any(stop in out for stop in stops)
        assert stopped is not None
        assert whole.startswith(stopped, len(out))


def reply(ids: list[int], finish: FinishReason, stops: tuple[str, ...] = ()) -> list[ReplyDelta]:
    text = Detokenizer(TOKENIZER, stops, frozenset({END}))
    deltas: list[ReplyDelta] = []
    for index, token in enumerate(ids):
        last = index == len(ids) - 1
        delta = text.push(
            Token("r", 0, index, token, finish if last else None, logprob=-float(index))
        )
        deltas.append(delta)
        if delta.finish is not None:
            break
    return deltas


@given(st.lists(st.integers(0, 259), min_size=1))
def test_the_text_equals_decoding_at_once_even_for_invalid_utf8(ids: list[int]) -> None:
    deltas = reply(ids, "length")
    assert "".join(x.text for x in deltas) == TOKENIZER.decode(ids)
    assert deltas[-1].finish == "length"
    assert [x.token for p in deltas for x in p.logprobs] == ids


@pytest.mark.slow
@given(st.text(min_size=1))
@settings(deadline=None)
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    ids = list(TOKENIZER.encode(text, chat=True))
    assert "".join(x.text for x in reply([*ids, END], "stop")) == TOKENIZER.decode(ids)
    assert b"".join(TOKENIZER.token_bytes(i) for i in ids) == text.encode()


def test_a_character_split_over_tokens_is_released_whole() -> None:
    ids = list("😀".encode())
    assert [x.text for x in reply(ids, "length")] == ["", "", "", "😀"]


def test_the_stop_token_has_no_text_and_no_logprob() -> None:
    deltas = reply([65, END], "stop")
    assert [x.text for x in deltas] == ["A", ""]
    assert [c.token for x in deltas for c in x.logprobs] == [65]


def test_logprobs_are_released_with_the_text_of_their_tokens() -> None:
    ids = list(b"one STOP two")
    deltas = reply(ids, "length", stops=("STOP",))
    assert "".join(x.text for x in deltas) == "one "
    assert [c.token for x in deltas for c in x.logprobs] == list(b"one ")
    assert deltas[-1].finish == "stop"


def test_a_partial_stop_string_at_the_end_is_text() -> None:
    deltas = reply(list(b"a STO"), "length", stops=("STOP",))
    assert "".join(x.text for x in deltas) == "a STO"
