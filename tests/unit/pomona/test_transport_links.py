"""Links: messages in one and in two parts, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pomona.errors import ProtocolError
from pomona.messages import codec
from pomona.messages.codec import Message, MessageRest
from pomona.messages.pipeline import Step, Tensor
from pomona.transport import Identity, Pull, Push
from pomona_stage_worker.engine.partial_messages import MAX_LINKS, PartialMessages

TENSORS = (Tensor("int32", (1, 1)), Tensor("float32", (2,)), Tensor("float32", (1,)))
STEP = Step(1, None, (1,), False)
WAIT_S = 5.0


@pytest.fixture
def link() -> Iterator[tuple[Push, Pull]]:
    pull = Pull("127.0.0.1")
    push = Push(Identity("pomona", "mac.stage_worker.0", "boot"), pull.endpoint)
    yield push, pull
    push.close()
    pull.close()


def test_the_first_part_arrives_before_the_rest_is_sent(link: tuple[Push, Pull]) -> None:
    push, pull = link
    for seq in range(3):
        push.send_first_part(STEP, 7, TENSORS, [b"\1\0\0\0"])
        first = pull.receive_part(WAIT_S)
        assert isinstance(first, Message)
        assert (first.envelope.seq, first.envelope.later, len(first.buffers)) == (seq, 2, 1)
        assert pull.receive_part(0.0) is None
        push.send_rest(1234, [b"activats", b"\2\0\0\0"])
        rest = pull.receive_part(WAIT_S)
        assert isinstance(rest, MessageRest)
        assert (rest.name, rest.elapsed_us) == (codec.message_name(first.envelope), 1234)
        assert [bytes(buffer) for buffer in rest.buffers] == [b"activats", b"\2\0\0\0"]


def test_a_receiver_of_whole_messages_rejects_parts_and_continues(link: tuple[Push, Pull]) -> None:
    push, pull = link
    push.send_first_part(STEP, 7, TENSORS, [b"\1\0\0\0"])
    push.send_rest(1234, [b"activats", b"\2\0\0\0"])
    push.send(STEP, 7)
    for _ in range(2):
        with pytest.raises(ProtocolError):
            pull.receive(WAIT_S)
    whole = pull.receive(WAIT_S)
    assert whole is not None
    assert whole.envelope.body == STEP


@given(st.binary(max_size=40), st.integers(0, 10**15 - 1), st.lists(st.binary(), max_size=3))
def test_every_second_part_survives_the_wire(
    name: bytes, elapsed_us: int, buffers: list[bytes]
) -> None:
    rest = MessageRest(name, elapsed_us, buffers)
    assert codec.decode_rest(codec.encode_rest(rest)) == rest


@pytest.mark.parametrize(
    "first", [b"", b"boot/1/0", b"boot/1/0 ", b"boot/1/0 -1", b"b " + b"9" * 16]
)
def test_what_names_no_time_is_no_second_part(first: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_rest([first, b"activats"])


def rest(name: bytes) -> MessageRest:
    return MessageRest(name, 0, ())


def first_part(link: int, seq: int) -> Message:
    envelope = Envelope(
        codec.PROTOCOL_VERSION, "pomona", "mac", "boot", link, seq, 1, STEP, TENSORS, later=3
    )
    return Message(envelope, ())


def test_only_the_latest_first_part_of_a_link_can_be_completed() -> None:
    partial = PartialMessages()
    for link, seq in ((1, 0), (1, 1), (2, 0)):
        partial.add(first_part(link, seq))
    assert partial.take(rest(b"boot/2/0")) == first_part(2, 0)
    for stranger in (b"", b"x", b"boot/2/0", b"boot/3/0", b"boot/1"):
        with pytest.raises(ProtocolError):
            partial.take(rest(stranger))
    assert partial.take(rest(b"boot/1/1")) == first_part(1, 1)
    partial.add(first_part(1, 2))
    with pytest.raises(ProtocolError):
        partial.take(rest(b"boot/1/1"))


def test_first_parts_that_are_never_completed_are_bounded() -> None:
    partial = PartialMessages()
    for link in range(3 * MAX_LINKS):
        partial.add(first_part(link, 0))
    with pytest.raises(ProtocolError):
        partial.take(rest(b"boot/0/0"))
    assert partial.take(rest(b"boot/%d/0" % (3 * MAX_LINKS - 1))).envelope.body == STEP
