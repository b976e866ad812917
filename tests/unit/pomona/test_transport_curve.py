"""Encrypted sockets: who gets in, and who does not any more."""

from __future__ import annotations

import asyncio
import socket as plain_sockets
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from pomona.addresses import at_node
from pomona.errors import LinkBusyError, LinkError, ProtocolError
from pomona.messages import codec
from pomona.messages.codec import Message
from pomona.messages.pipeline import Step, Tensor
from pomona.transport import BeaconProxy, Identity, Pull, Push, Replier, Requester
from pomona.transport.authenticator import Authenticator
from pomona.transport.curve import Listener, be_client, connect
from pomona.transport.key_search import find_member, try_key
from pomona.transport.sockets import configure, context
from pomona.trust import Member, Trust
from pomona.trust import roster as rosters
from support.doubles.relay import relay
from support.members import join
from support.waiting import wait_until

STEP = Step(1, None, (1,), False)
IDENTITY = Identity("pomona", "b.stage_worker", "boot")
WAIT_S = 30.0


@pytest.fixture
def nodes(tmp_path: Path) -> tuple[Trust, Trust]:
    """Two members of one cluster. The first is its head."""
    return tuple(join(tmp_path, "home", name, tmp_path / name) for name in "ab")  # type: ignore[return-value]


@pytest.fixture
def stranger(tmp_path: Path) -> Trust:
    return Trust.open(tmp_path / "stranger", "b")


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def open_pull(closing: ExitStack, trust: Trust, **options: Any) -> Pull:
    pull = Pull("127.0.0.1", trust=trust, **options)
    closing.callback(pull.close)
    return pull


def open_push(closing: ExitStack, pull: Pull, node: str, trust: Trust | None) -> Push:
    name = trust.member.name if trust is not None and trust.member is not None else "b"
    identity = Identity("pomona", f"{name}.stage_worker", "boot")
    push = Push(identity, at_node(pull.endpoint, node), 0.4, trust=trust)
    closing.callback(push.close)
    return push


def revoke(head: Trust, *others: Trust) -> None:
    """Removes the last of ``others`` from the roster of all."""
    roster = head.change(lambda x: rosters.without_member(x, others[-1].keys.id))
    for other in others:
        other.offer(roster)


def test_a_member_gets_through(nodes: tuple[Trust, Trust], closing: ExitStack) -> None:
    a, b = nodes
    pull = open_pull(closing, a)
    open_push(closing, pull, "a", b).send(STEP, 7)
    message = pull.receive(WAIT_S)
    assert message is not None
    assert message.envelope.body == STEP


@pytest.mark.slow
@pytest.mark.parametrize("who", ["no key", "own key", "key of another cluster"])
def test_a_stranger_sends_nothing(
    who: str, nodes: tuple[Trust, Trust], stranger: Trust, closing: ExitStack
) -> None:
    a, _ = nodes
    pull = open_pull(closing, a)
    if who == "own key":  # and it has learnt the public key of the node
        socket = context().socket(zmq.PUSH)
        closing.callback(socket.close, 0)
        socket.setsockopt(zmq.SNDTIMEO, 400)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        be_client(socket, stranger, a.keys.public)
        socket.connect(pull.endpoint)
        with pytest.raises(zmq.Again):
            socket.send(b"{}")
    else:
        push = open_push(closing, pull, "", None if who == "no key" else stranger)
        with pytest.raises(LinkBusyError):
            push.send(STEP, 7)
    assert pull.receive(0.1) is None


def test_a_stranger_at_the_address_of_a_member_receives_nothing(
    nodes: tuple[Trust, Trust], stranger: Trust, closing: ExitStack
) -> None:
    _, b = nodes
    pull = open_pull(closing, stranger)
    with pytest.raises(LinkBusyError):
        open_push(closing, pull, "a", b).send(STEP, 7)
    assert pull.receive(0.1) is None


def test_no_link_is_made_to_a_node_that_is_not_a_member(nodes: tuple[Trust, Trust]) -> None:
    with pytest.raises(LinkError, match="not a member"):
        Push(IDENTITY, "tcp://127.0.0.1:9#nobody", trust=nodes[0])


def test_another_node_reads_no_control_messages_of_this_one(
    nodes: tuple[Trust, Trust],
) -> None:
    a, b = nodes

    async def body() -> None:
        proxy = BeaconProxy(*["tcp://127.0.0.1:*"] * 3, trust=a)
        endpoint = proxy._local_out.getsockopt_string(zmq.LAST_ENDPOINT)  # type: ignore[reportPrivateUsage]
        try:
            assert await try_subscriber(endpoint, a, a)
            assert not await try_subscriber(endpoint, b, a)
        finally:
            proxy.close()

    asyncio.run(body())


async def try_subscriber(endpoint: str, trust: Trust, server: Trust) -> bool:
    """Returns whether a node with these keys may connect."""
    return await try_key(trust, endpoint, server.keys.public, zmq.SUB) == "admitted"


def test_a_revoked_node_is_out_and_the_others_go_on(
    nodes: tuple[Trust, Trust], tmp_path: Path, closing: ExitStack
) -> None:
    a, b = nodes
    c = join(tmp_path, "home", "c", tmp_path / "c")
    pull = open_pull(closing, a)
    from_b, from_c = (open_push(closing, pull, "a", trust) for trust in (b, c))
    received: list[Any] = []
    stop = threading.Event()

    def receive() -> None:
        while not stop.is_set():
            if (message := pull.receive(0.05)) is not None:
                received.append(message.envelope.epoch)

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        from_b.send(STEP, 1)
        from_c.send(STEP, 2)
        wait_until(lambda: sorted(received) == [1, 2], "both are heard")
        roster = a.change(lambda x: rosters.without_member(x, c.keys.id))
        b.offer(roster)  # c goes on as if it had not heard
        wait_until(lambda: not is_connected(from_c), "c is out", 10.0)
        with pytest.raises(LinkBusyError):
            from_c.send(STEP, 3)
        wait_until(lambda: is_connected(from_b), "b is in again")
        wait_until(lambda: 4 in received, "b is heard")
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert 3 not in received


def is_connected(push: Push) -> bool:
    try:
        push.send(STEP, 4, wait=False)
    except LinkBusyError:
        return False
    return True


def test_nothing_is_sent_to_a_revoked_node(nodes: tuple[Trust, Trust], closing: ExitStack) -> None:
    a, b = nodes
    pull = open_pull(closing, b)
    push = open_push(closing, pull, "b", a)
    push.send(STEP, 1)
    assert pull.receive(WAIT_S) is not None
    revoke(a, b)
    for _ in range(2):
        with pytest.raises(LinkError, match="not a member any more"):
            push.send(STEP, 2)
    assert pull.receive(0.1) is None


def test_what_travels_is_not_readable(nodes: tuple[Trust, Trust], closing: ExitStack) -> None:
    a, b = nodes
    pull = open_pull(closing, a)
    between = closing.enter_context(relay(pull.endpoint))
    push = Push(IDENTITY, at_node(between.endpoint, "a"), trust=b)
    closing.callback(push.close)
    secret = b"the prompt of somebody"
    push.send(STEP, 7, (Tensor("int8", (len(secret),)),), (secret,))
    message = pull.receive(WAIT_S)
    assert message is not None
    assert bytes(message.buffers[0]) == secret
    assert len(between.seen) > 200
    assert secret not in between.seen
    assert b"stage_worker" not in between.seen


def test_the_bound_side_is_the_curve_server_and_the_other_is_not(
    nodes: tuple[Trust, Trust], closing: ExitStack
) -> None:
    """libzmq aborts when a CURVE server connects to a CURVE server."""
    a, b = nodes
    bound, connected = context().socket(zmq.PULL), context().socket(zmq.PUSH)
    closing.callback(bound.close, 0)
    closing.callback(connected.close, 0)
    listener = Listener(bound, "tcp://127.0.0.1:*", "TEST", a)
    closing.callback(listener.close)
    connect(connected, at_node(listener.endpoint, "a"), b)
    assert bound.getsockopt(zmq.CURVE_SERVER) == 1
    assert connected.getsockopt(zmq.CURVE_SERVER) == 0
    assert bound.getsockopt(zmq.MECHANISM) == connected.getsockopt(zmq.MECHANISM) == zmq.CURVE


@given(st.lists(st.binary(max_size=40), max_size=9), st.booleans())
def test_every_handshake_is_answered_with_200_or_400(request: list[bytes], valid: bool) -> None:
    """libzmq waits for ever on some other status codes."""
    own = zmq.Context[zmq.Socket[bytes]]()
    try:
        zap = Authenticator(own)

        def admit(key: str) -> str:
            if not valid:
                raise ValueError("a fault in the roster")
            return "node"

        domain = zap.add(admit)
        whole = [b"1.0", b"1", domain, b"10.0.0.1", b"", b"CURVE", bytes(32)]
        assert zap.answer(whole)[2] == (b"200" if valid else b"400")
        answer = zap.answer(request)
        assert (answer[0], answer[2], len(answer)) == (b"1.0", b"400", 6)
    finally:
        own.term()


@pytest.mark.slow
def test_a_link_that_was_refused_connects_when_the_other_side_knows_the_new_member(
    nodes: tuple[Trust, Trust], tmp_path: Path, closing: ExitStack
) -> None:
    """libzmq gives a refused connection up."""
    a, b = nodes
    late = Trust.open(tmp_path / "late", "late")
    member = Member(late.keys.id, late.keys.public, "late", "member")
    roster = a.change(lambda x: rosters.with_member(x, member))
    late = Trust.joined(tmp_path / "late", roster)
    pull = open_pull(closing, b)  # b has not heard of the new member
    push = Push(
        Identity("pomona", "late.stage_worker", "boot"),
        at_node(pull.endpoint, "b"),
        0.5,
        trust=late,
    )
    closing.callback(push.close)
    with pytest.raises(LinkBusyError):
        push.send(STEP, 1)
    b.offer(roster)
    wait_until(lambda: is_connected(push), "the link is there", 30)
    message = pull.receive(WAIT_S)
    assert message is not None
    assert message.envelope.epoch == 4


def test_a_member_does_not_speak_in_the_name_of_another(
    nodes: tuple[Trust, Trust], tmp_path: Path, closing: ExitStack
) -> None:
    a, b = nodes
    join(tmp_path, "home", "b.long", tmp_path / "b.long")
    pull = open_pull(closing, a)

    def send(name: str) -> Any:
        push = Push(Identity("pomona", name, "boot"), at_node(pull.endpoint, "a"), WAIT_S, trust=b)
        closing.callback(push.close)
        push.send(STEP, 1)
        return pull.receive(WAIT_S)

    assert send("b.stage_worker.0") is not None
    assert send("driver-1") is not None, "a name of no member"
    for name in ("a.planner", "b.long.stage_worker"):
        with pytest.raises(ProtocolError, match="b sent a message in the name of"):
            send(name)
    assert send("b.gateway") is not None


def test_a_member_does_not_end_the_message_of_another(
    nodes: tuple[Trust, Trust], closing: ExitStack
) -> None:
    a, b = nodes
    pull = open_pull(closing, a)
    own = open_push(closing, pull, "a", a)
    tensors = (Tensor("int8", (1,)),)
    own.send_first_part(STEP, 1, tensors)
    first = pull.receive_part(WAIT_S)
    assert isinstance(first, Message)
    forged = open_push(closing, pull, "a", b)
    forged._partial_name = codec.message_name(first.envelope)  # type: ignore[reportPrivateUsage]
    forged.send_rest(1, (b"x",))
    with pytest.raises(ProtocolError, match="second part"):
        pull.receive_part(WAIT_S)


def test_a_flood_of_half_open_handshakes_keeps_no_member_out(
    nodes: tuple[Trust, Trust], closing: ExitStack
) -> None:
    a, b = nodes
    pull = open_pull(closing, a)
    host, _, port = pull.endpoint.removeprefix("tcp://").rpartition(":")
    for number in range(200):
        half = closing.enter_context(plain_sockets.create_connection((host, int(port)), WAIT_S))
        if number % 2:
            half.send(b"\xff\0\0\0\0\0\0\0\1\x7f\3\0CURVE")
    push = Push(IDENTITY, at_node(pull.endpoint, "a"), WAIT_S, trust=b)
    closing.callback(push.close)
    push.send(STEP, 7)
    assert pull.receive(WAIT_S) is not None


def test_the_key_at_an_address_is_found_among_the_members(
    nodes: tuple[Trust, Trust], stranger: Trust, closing: ExitStack
) -> None:
    a, b = nodes
    nobody = Member(stranger.keys.id, stranger.keys.public, "nobody", "member")
    members = [nobody, *a.roster.members]

    def listen(trust: Trust) -> str:
        socket = context().socket(zmq.SUB)
        closing.callback(socket.close, 0)
        configure(socket, 10, 1000)
        listener = Listener(socket, "tcp://127.0.0.1:*", "TEST", trust)
        closing.callback(listener.close)
        return listener.endpoint

    at_b, at_other = listen(b), listen(Trust.open(a.folder.parent.parent / "other", "x"))
    assert asyncio.run(find_member(a, at_b, members)) == (b.member, "admitted")
    assert asyncio.run(find_member(stranger, at_b, members)) == (b.member, "refused")
    assert asyncio.run(find_member(a, at_other, members)) == (None, "wrong_key")
    assert asyncio.run(find_member(a, "tcp://127.0.0.1:9", members)) == (None, "unreachable")


def test_requests_are_answered_in_parts_and_name_the_node_that_asks(
    nodes: tuple[Trust, Trust], closing: ExitStack
) -> None:
    a, b = nodes
    asked: list[str] = []

    def handle(request: Any, node: str) -> Iterator[list[bytes]]:
        asked.append(node)
        yield from ([part] for part in request)

    replier = Replier("127.0.0.1", 0, "TEST", handle, threads=2, trust=a)
    closing.callback(replier.close)
    requester = Requester(at_node(replier.endpoint, "a"), trust=b)
    closing.callback(requester.close)
    requester.send(b"one", b"two", timeout_s=WAIT_S)
    assert [requester.receive(WAIT_S) for _ in range(2)] == [[b"one"], [b"two"]]
    assert asked == [b.keys.id]


def test_the_unix_socket_is_for_this_user_only_and_is_removed(
    nodes: tuple[Trust, Trust], tmp_path: Path, closing: ExitStack
) -> None:
    left = tmp_path / "run" / "999999999-dead"
    left.parent.mkdir()
    left.touch()
    pull = Pull("127.0.0.1", local_folder=tmp_path, trust=nodes[0])
    path = Path(pull.local_endpoint.removeprefix("ipc://"))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not left.exists()
    push = Push(IDENTITY, pull.local_endpoint, trust=nodes[0])
    push.send(STEP, 7)
    assert pull.receive(WAIT_S) is not None
    push.close()
    pull.close()
    assert not path.exists()


def test_a_state_folder_with_a_long_name_gets_a_socket_elsewhere(
    nodes: tuple[Trust, Trust], tmp_path: Path
) -> None:
    pull = Pull("127.0.0.1", local_folder=tmp_path / ("x" * 100), trust=nodes[0])
    path = Path(pull.local_endpoint.removeprefix("ipc://"))
    pull.close()
    assert len(str(path)) <= 100
    assert path.parent.owner() == tmp_path.owner()
