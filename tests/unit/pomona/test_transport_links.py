"""Links: messages in one and in two parts, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import zmq

from pomona.errors import AddressInUseError, ProtocolError
from pomona.messages import codec
from pomona.messages.codec import Message, MessageRest
from pomona.messages.pipeline import Step, Tensor
from pomona.transport import Identity, Pull, Push
from pomona.transport.sockets import configure, context
from support.waiting import wait_until

TENSORS = (Tensor("int32", (1, 1)), Tensor("float32", (2,)), Tensor("float32", (1,)))
STEP = Step(1, None, (1,), False)
WAIT_S = 30.0


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


def pull_at(port: int) -> Pull:
    """Binds a port whose listener ends at this moment, in a thread of libzmq."""
    found: list[Pull] = []

    def bind() -> bool:
        with suppress(AddressInUseError):
            found.append(Pull("127.0.0.1", port))
        return bool(found)

    wait_until(bind, "the port is free")
    return found[0]


def test_a_link_tells_when_its_connection_was_lost_and_made_again() -> None:
    identity = Identity("pomona", "mac.stage_worker.0", "boot")
    pull = Pull("127.0.0.1")
    port = int(pull.endpoint.rpartition(":")[2])
    push = Push(identity, pull.endpoint, monitored=True)
    push.send(STEP, 7)
    assert pull.receive(WAIT_S) is not None
    assert not push.has_reconnected()
    pull.close()
    again = pull_at(port)
    wait_until(push.has_reconnected, "the link has reconnected")
    push.send(STEP, 7)
    assert again.receive(WAIT_S) is not None
    push.close()
    again.close()


def test_links_give_up_connects_that_hang() -> None:
    for socket in (context().socket(zmq.PUSH), context().socket(zmq.PUB)):
        configure(socket, 10, 1000)
        assert socket.getsockopt(zmq.CONNECT_TIMEOUT) == 2000
        assert socket.getsockopt(zmq.HANDSHAKE_IVL) == 2000
        socket.close()
