"""The file of a run: read as far as it is whole."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.errors import ProtocolError
from pomona.messages.pipeline import Token
from pomona.messages.sampling import Sampling
from pomona.queue_policy import QueuePolicy
from pomona_gateway.pipeline.instructions import SequenceRequest
from pomona_gateway.runs import run_file
from pomona_gateway.runs.checked_lines import encode_line
from pomona_gateway.runs.run import RunOrigin, RunRequest
from pomona_gateway.runs.run_file import RecordedResponse

REQUEST = RunRequest("/v1/x", "a=b", (("content-type", "text/x; é"),), b"\x00body\xff\n")
ORIGIN = RunOrigin("request", "run_1", "alice", "key", "f" * 64, False, 1.5, "ab", True, REQUEST)
SEQUENCE = SequenceRequest(
    "m",
    array("i", [1, 2, 2**31 - 1]),
    Sampling(max_tokens=9, seed=2**64 - 1, logit_bias=((1, 2.5),)),
    QueuePolicy("alice", 1, 0.5),
)
TOKENS = [
    (0, Token("", 0, 0, 7)),
    (1, Token("", 0, 0, 8, logprob=0.0)),
    (0, Token("", 0, 1, 9, "stop", -0.5, ((9, -0.5), (3, -1.25)))),
]
RESPONSE = RecordedResponse(200, [(b"content-type", b"x")], [b"one", b"", b"\xfftwo\n"])
LINES = [
    run_file.encode_origin(ORIGIN, "boot"),
    run_file.encode_sequence(0, SEQUENCE),
    run_file.encode_cached(0, 2),
    run_file.encode_tokens(TOKENS),
    run_file.encode_response(RESPONSE),
]
WHOLE = b"".join(LINES)


def test_whole_file_is_read_as_it_was_written() -> None:
    found = run_file.decode_run_file(WHOLE)
    assert found.origin == ORIGIN
    assert found.owner == "boot"
    assert found.sequences.sequences == {0: SEQUENCE}
    assert found.sequences.cached == {0: 2}
    assert found.sequences.tokens == TOKENS
    assert found.response == RESPONSE
    assert found.size == len(WHOLE)


@given(st.integers(min_value=0, max_value=len(WHOLE)))
def test_cut_file_is_read_up_to_its_last_whole_line(length: int) -> None:
    origin_line = WHOLE.index(b"\n") + 1
    if length < origin_line:
        with pytest.raises(ProtocolError):
            run_file.decode_run_file(WHOLE[:length])
        return
    found = run_file.decode_run_file(WHOLE[:length])
    assert found.size == WHOLE[:length].rindex(b"\n") + 1
    assert (found.response is None) == (length < len(WHOLE))


@given(st.integers(min_value=0, max_value=len(WHOLE) - 1), st.integers(1, 255))
def test_damaged_byte_ends_the_file_there(at: int, flip: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] ^= flip
    try:
        found = run_file.decode_run_file(bytes(damaged))
    except ProtocolError:
        assert at <= WHOLE.index(b"\n")
        return
    assert found.size <= at
    assert found.origin == ORIGIN
    assert found.sequences.tokens in ([], TOKENS)


def test_file_of_another_version_is_refused() -> None:
    other = encode_line({"run": 2})
    with pytest.raises(ProtocolError, match="origin"):
        run_file.decode_run_file(other)
