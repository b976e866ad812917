"""The text of a reply is the decoding of its ids, and stop strings never leak."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pomona.messages.pipeline import FinishReason, Token
from pomona_gateway.generation.detokenizer import Piece, ReplyText, StopScanner
from support.models.tiny_model import end_id, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
END = end_id()
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


@given(st.lists(st.text("abc", max_size=4), max_size=12), STOPS)
def test_text_before_the_first_stop_string_comes_out_and_nothing_after(
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
    # The scanner sees piece by piece: the first end of a stop string decides.
    ends = [(at + len(s), at) for s in stops if (at := whole.find(s)) >= 0]
    assert (stopped is not None) == bool(ends)
    if not ends:
        assert out == whole
    else:
        assert whole.startswith(out)
        assert not any(stop in out for stop in stops)
        assert stopped is not None
        assert whole.startswith(stopped, len(out))


def reply(ids: list[int], finish: FinishReason, stops: tuple[str, ...] = ()) -> list[Piece]:
    text = ReplyText(TOKENIZER, stops, frozenset({END}))
    pieces: list[Piece] = []
    for index, token in enumerate(ids):
        last = index == len(ids) - 1
        piece = text.push(
            Token("r", 0, index, token, finish if last else None, logprob=-float(index))
        )
        pieces.append(piece)
        if piece.finish is not None:
            break
    return pieces


@given(st.lists(st.integers(0, 259), min_size=1))
def test_the_text_is_the_full_decoding_even_of_broken_utf8(ids: list[int]) -> None:
    pieces = reply(ids, "length")
    assert "".join(x.text for x in pieces) == TOKENIZER.decode(ids)
    assert pieces[-1].finish == "length"
    assert [x.token for p in pieces for x in p.chances] == ids


@given(st.text(min_size=1))
@settings(deadline=None)
def test_every_text_survives_its_own_ids(text: str) -> None:
    ids = list(TOKENIZER.encode(text, chat=True))
    assert "".join(x.text for x in reply([*ids, END], "stop")) == TOKENIZER.decode(ids)
    assert b"".join(TOKENIZER.token_bytes(i) for i in ids) == text.encode()


def test_a_character_split_over_tokens_comes_out_whole() -> None:
    ids = list("😀".encode())
    assert [x.text for x in reply(ids, "length")] == ["", "", "", "😀"]


def test_the_token_that_ends_the_reply_has_no_text_and_no_chance() -> None:
    pieces = reply([65, END], "stop")
    assert [x.text for x in pieces] == ["A", ""]
    assert [c.token for x in pieces for c in x.chances] == [65]


def test_chances_come_with_the_text_they_belong_to() -> None:
    ids = list(b"one STOP two")
    pieces = reply(ids, "length", stops=("STOP",))
    assert "".join(x.text for x in pieces) == "one "
    assert [c.token for x in pieces for c in x.chances] == list(b"one ")
    assert pieces[-1].finish == "stop"


def test_a_begin_of_a_stop_string_at_the_end_is_text() -> None:
    pieces = reply(list(b"a STO"), "length", stops=("STOP",))
    assert "".join(x.text for x in pieces) == "a STO"
