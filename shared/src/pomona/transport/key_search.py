"""Finds which member listens at an address, by trying their keys.

A CURVE client must know the key of the server. Static and multicast addresses name none, so the
keys of the roster are tried, the likely ones first: a server closes the connection at once when the
client expects another key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Literal

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from pomona.messages.limits import MAX_BEACON_BYTES
from pomona.transport.curve import be_client
from pomona.transport.sockets import configure, context
from pomona.trust import Member, Trust

TRY_DEADLINE_S: Final = 2.0

Outcome = Literal["admitted", "refused", "wrong_key", "unreachable"]


async def find_member(
    trust: Trust, endpoint: str, candidates: Iterable[Member]
) -> tuple[Member | None, Outcome]:
    """Returns the first candidate whose key answers at a peer endpoint, and what it said.

    ``refused`` means that the node has the key but does not admit this one. Without a member the
    outcome is ``wrong_key`` when another process listens there, else ``unreachable``.
    """
    for member in candidates:
        outcome = await try_key(trust, endpoint, member.key)
        if outcome in ("admitted", "refused"):
            return member, outcome
        if outcome == "unreachable":
            return None, outcome
    return None, "wrong_key"


async def try_key(trust: Trust, endpoint: str, key: str, kind: int = zmq.PUB) -> Outcome:
    """Makes one handshake with an endpoint and closes the connection again.

    Args:
        kind: type of socket that the other end accepts.
    """
    socket = zmq.asyncio.Context(context()).socket(kind)
    configure(socket, 1, MAX_BEACON_BYTES)
    be_client(socket, trust, key)
    monitor = socket.get_monitor_socket()
    try:
        async with asyncio.timeout(TRY_DEADLINE_S):
            socket.connect(endpoint)
            is_connected = False
            while True:
                event = parse_monitor_message(await monitor.recv_multipart())["event"]
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    return "admitted"
                if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    return "refused"
                if event == zmq.EVENT_CONNECTED:
                    is_connected = True
                elif event in (zmq.EVENT_CLOSED, zmq.EVENT_CONNECT_RETRIED) and not is_connected:
                    return "unreachable"
                elif event == zmq.EVENT_DISCONNECTED or (
                    event
                    in (
                        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
                        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
                    )
                ):
                    return "wrong_key"
    except (TimeoutError, zmq.ZMQError):
        return "unreachable"
    finally:
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=0)
