"""Tests of messages between a process and its child."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator

import pytest

from pomona.errors import LinkBusyError, ProtocolError
from pomona.transport import channels
from pomona.transport.channels import SIZE, Channel

PATIENCE_S = 30.0


@pytest.fixture
def ends() -> Generator[tuple[Channel, socket.socket]]:
    own, other = Channel.pair("rank 1")
    yield own, other
    own.close()
    other.close()


def test_frames_arrive_as_they_were_sent(ends: tuple[Channel, socket.socket]) -> None:
    parent, child = ends[0], Channel.inherited(ends[1].detach())
    large = bytes(range(256)) * (1 << 15)  # larger than the buffers of the sockets
    sender = threading.Thread(target=parent.send, args=([b"header", b"", large],))
    sender.start()
    received = child.receive(PATIENCE_S)
    sender.join(PATIENCE_S)
    assert received == [b"header", b"", large]
    child.send([b"x"])
    assert parent.receive(PATIENCE_S) == [b"x"]
    assert parent.receive(0) is None
    child.close()


def test_a_message_that_arrives_in_pieces_is_returned_when_it_is_whole(
    ends: tuple[Channel, socket.socket],
) -> None:
    parent, other = ends
    message = SIZE.pack(2) + SIZE.pack(3) + SIZE.pack(1) + b"abc" + b"d"
    for byte in message[:-1]:
        other.send(bytes([byte]))
        assert parent.receive(0) is None
    other.send(message[-1:])
    assert parent.receive(PATIENCE_S) == [b"abc", b"d"]


def test_what_was_sent_before_the_end_is_read_first(ends: tuple[Channel, socket.socket]) -> None:
    parent, other = ends
    other.sendall(SIZE.pack(1) + SIZE.pack(4) + b"last")
    other.close()
    assert parent.receive(PATIENCE_S) == [b"last"]
    with pytest.raises(ConnectionError, match="rank 1 has closed"):
        parent.receive(PATIENCE_S)
    parent.send([b"lost"])


def test_a_stopped_reader_does_not_hold_the_sender_for_ever(
    ends: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "SEND_DEADLINE_S", 0.1)
    with pytest.raises(LinkBusyError, match="rank 1 took no message"):
        ends[0].send([bytes(1 << 24)])


@pytest.mark.parametrize(
    "message", [SIZE.pack(0), SIZE.pack(1 << 40), SIZE.pack(1) + SIZE.pack(1 << 40)]
)
def test_sizes_beyond_the_limits_are_refused(
    ends: tuple[Channel, socket.socket], message: bytes
) -> None:
    ends[1].sendall(message)
    with pytest.raises(ProtocolError, match="rank 1 sent"):
        ends[0].receive(PATIENCE_S)
