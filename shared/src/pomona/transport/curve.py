"""Encrypts sockets with CURVE (ZeroMQ RFC 26) by the keys of a node.

The bound side is always the CURVE server: libzmq aborts when a server connects to a server (issue
3059 of zeromq/libzmq). It knows its clients by the roster; a client names the expected node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import zmq

from pomona.addresses import IPC_PREFIX, split_node
from pomona.errors import LinkError
from pomona.private_files import FILE_MODE
from pomona.transport.authenticator import authenticator
from pomona.transport.sockets import bind, bind_again, context
from pomona.trust import Roster, Trust

log = logging.getLogger(__name__)

Audience = Literal["node", "members"]
"""Clients that may connect: processes of this node, or every member of the roster."""

_installed: list[Trust] = []
_by_endpoint: dict[str, Trust] = {}


def use(trust: Trust | None, *endpoints: str) -> None:
    """Encrypts every socket that this process makes from now on, unless it is given other keys.

    Args:
        endpoints: control endpoints of the node of ``trust``, which keep these keys when a process
            that talks to several nodes takes others.
    """
    _installed[:] = [] if trust is None else [trust]
    if trust is not None:
        _by_endpoint.update(dict.fromkeys(endpoints, trust))


def installed(endpoint: str = "") -> Trust | None:
    """Returns the keys of this process for an endpoint; None in tests of bare sockets."""
    return _by_endpoint.get(endpoint) or (_installed[0] if _installed else None)


def connect(socket: zmq.Socket[Any], endpoint: str, trust: Trust | None) -> str:
    """Connects a socket to the node that the endpoint names, or to this node.

    Returns:
        The endpoint without the node.

    Raises LinkError when the endpoint is not valid, or the node is not a member.
    """
    address, node = split_node(endpoint)
    if trust is not None and not address.startswith(IPC_PREFIX):
        key = server_key(trust, node)
        if key is None:
            raise LinkError(f"{node} at {address} is not a member of {trust.roster.name}")
        be_client(socket, trust, key)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise LinkError(f"{address} is not a valid endpoint: {error}") from error
    return address


def server_key(trust: Trust, node: str) -> str | None:
    """Returns the public key of a node; of this one when ``node`` is empty. None for a stranger."""
    if not node:
        return trust.keys.public
    member = trust.roster.by_name(node)
    return member.key if member is not None else None


def be_client(socket: zmq.Socket[Any], trust: Trust, key: str) -> None:
    """Makes the next connections of a socket encrypted, to the node with this public key."""
    socket.setsockopt(zmq.CURVE_PUBLICKEY, bytes.fromhex(trust.keys.public))
    socket.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(trust.keys.secret))
    socket.setsockopt(zmq.CURVE_SERVERKEY, bytes.fromhex(key))


class Listener:
    """One bound endpoint of a socket, with the keys admitted there.

    All methods but :meth:`is_due` belong to the thread of the socket.

    Args:
        endpoint, setting: as in :func:`pomona.transport.sockets.bind`.
        wake: called in any thread when :meth:`refresh` is due.
    """

    def __init__(
        self,
        socket: zmq.Socket[Any],
        endpoint: str,
        setting: str,
        trust: Trust | None,
        audience: Audience = "members",
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket = socket
        self._trust = trust
        self._audience: Audience = audience
        self._wake = wake
        self._admitted: set[str] = set()
        self._domain = b""
        self._seen = trust.roster if trust is not None else None
        self._secure = trust is not None and not endpoint.startswith(IPC_PREFIX)
        if self._secure:
            self._be_server()
        self.endpoint = bind(socket, endpoint, setting)
        if endpoint.startswith(f"{IPC_PREFIX}/"):
            _make_private(endpoint.removeprefix(IPC_PREFIX))
        if trust is not None:
            trust.on_change(self._on_change)

    def _be_server(self) -> None:
        trust = self._trust
        assert trust is not None
        self._socket.setsockopt(zmq.CURVE_SERVER, 1)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(trust.keys.secret))
        # The domain stays the same: a refused client never tries again, and one that connects while
        # the old listener ends would be refused by a domain that is not known any more.
        self._domain = self._domain or authenticator(context()).add(self._admit)
        self._socket.setsockopt(zmq.ZAP_DOMAIN, self._domain)
        # Without an authenticator libzmq would admit everybody.
        self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def _admit(self, key: str) -> str:
        """Decides about a handshake, in the authenticator's thread. Returns the node's id."""
        trust = self._trust
        assert trust is not None
        if key == trust.keys.public:
            return trust.keys.id
        if self._audience == "node":
            return ""
        member = trust.roster.by_key(key)
        if member is None:
            return ""
        # Noted before the roster is read again: either here or in `is_due` a node is seen that is
        # revoked at this moment.
        self._admitted.add(key)
        return member.id if trust.roster.by_key(key) is not None else ""

    def _on_change(self, before: Roster, after: Roster) -> None:
        if self.is_due:
            self._wake()

    @property
    def is_due(self) -> bool:
        """Tells whether a node that has connected is not a member any more. Thread-safe."""
        trust = self._trust
        if trust is None or trust.roster is self._seen:
            return False
        roster = trust.roster
        if all(roster.by_key(key) for key in list(self._admitted)):
            self._seen = roster
            return False
        return True

    def refresh(self) -> bool:
        """Closes every connection when one is of a node that was revoked; members connect again.

        ZeroMQ asks the authenticator at the handshake only, and cannot close one connection.
        Returns True when it has closed them.
        """
        if not self._secure or not self.is_due:
            return False
        trust = self._trust
        assert trust is not None
        self._seen = trust.roster
        self._admitted.clear()
        log.info("connections to %s are closed: a node was revoked", self.endpoint)
        self._socket.unbind(self.endpoint)
        self._be_server()
        bind_again(self._socket, self.endpoint)
        return True

    def close(self) -> None:
        """Follows the roster no longer. The owner closes the socket, which ends all connections.

        Members that connect at this moment are still admitted: they must try again later.
        """
        if self._trust is not None:
            self._trust.remove_handler(self._on_change)


def sender_of(frame: zmq.Frame) -> str:
    """Returns the id of the node whose connection brought a frame; empty for a local socket."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


def _make_private(path: str) -> None:
    """Lets only the owner connect to a Unix socket. Linux and macOS check write permission."""
    with suppress(OSError):
        Path(path).chmod(FILE_MODE)
