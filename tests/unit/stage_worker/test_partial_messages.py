"""Partial messages: first parts that wait for their second part."""

from __future__ import annotations

import pytest

from pomona.errors import ProtocolError
from pomona.messages import codec
from pomona.messages.codec import Message, MessageRest
from pomona.messages.pipeline import Envelope, Step, Tensor
from pomona_stage_worker.engine.partial_messages import MAX_LINKS, PartialMessages

TENSORS = (Tensor("int32", (1, 1)), Tensor("float32", (2,)), Tensor("float32", (1,)))
STEP = Step(1, None, (1,), False)


def rest(name: bytes) -> MessageRest:
    return MessageRest(name, 0, ())


def first_part(link: int, seq: int) -> Message:
    envelope = Envelope(
        codec.PROTOCOL_VERSION, "pomona", "mac", "boot", link, seq, 1, STEP, TENSORS, later=3
    )
    return Message(envelope, ())


def test_only_the_last_first_part_of_a_link_is_kept() -> None:
    messages = PartialMessages()
    for link, seq in ((1, 0), (1, 1), (2, 0)):
        messages.add(first_part(link, seq))
    assert messages.take(rest(b"boot/2/0")) == first_part(2, 0)
    for unknown in (b"", b"x", b"boot/2/0", b"boot/3/0", b"boot/1"):
        with pytest.raises(ProtocolError):
            messages.take(rest(unknown))
    assert messages.take(rest(b"boot/1/1")) == first_part(1, 1)
    messages.add(first_part(1, 2))
    with pytest.raises(ProtocolError):
        messages.take(rest(b"boot/1/1"))


def test_the_number_of_first_parts_is_bounded() -> None:
    messages = PartialMessages()
    for link in range(3 * MAX_LINKS):
        messages.add(first_part(link, 0))
    with pytest.raises(ProtocolError):
        messages.take(rest(b"boot/0/0"))
    assert messages.take(rest(b"boot/%d/0" % (3 * MAX_LINKS - 1))).envelope.body == STEP
