"""Ports of services stay out of the range of clients' connections, and wait for a TIME_WAIT."""

from __future__ import annotations

import errno
import socket
import threading
import time

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from pomona import ports
from pomona.errors import AddressInUseError
from pomona.ports import BLOCK, FREE_PORTS, SERVICE_PORTS, bind_free_port, services_base
from pomona.transport.sockets import bind, configure, context
from pomona_ops.cluster.ports import LAST_FIRST_PORT, MAX_STAGES, ClusterPorts
from support.ports import free_port

CLIENT_PORTS_FROM = 32768


@given(st.integers(1024, LAST_FIRST_PORT))
def test_every_port_but_the_gateways_is_below_those_of_clients(first: int) -> None:
    block = ClusterPorts(first)
    others = [port for use, port in block.by_use(MAX_STAGES).items() if use != "the gateway"]
    assert min(others) > 1024
    assert max(others) < SERVICE_PORTS.stop
    assert len(set(others) | {first}) == len(others) + 1


def test_the_default_ports() -> None:
    assert services_base(52415) == 22415
    assert services_base(20000) == 20000
    assert SERVICE_PORTS.stop <= FREE_PORTS.start < FREE_PORTS.stop <= CLIENT_PORTS_FROM
    assert len(SERVICE_PORTS) > BLOCK


def test_a_free_port_is_below_those_of_clients() -> None:
    tried: list[int] = []

    def bind_third(port: int) -> int:
        tried.append(port)
        if len(tried) < 3:
            raise OSError(errno.EADDRINUSE, "taken")
        return port

    assert bind_free_port(bind_third) in FREE_PORTS
    with pytest.raises(PermissionError):
        bind_free_port(lambda port: exec_denied())


def exec_denied() -> int:
    raise PermissionError(errno.EACCES, "denied")


def test_sockets_of_links_take_such_ports() -> None:
    pull = context().socket(zmq.PULL)
    configure(pull, 10, 1000)
    endpoint = bind(pull, "tcp://127.0.0.1:*", "POMONA_X")
    assert int(endpoint.rpartition(":")[2]) in FREE_PORTS
    pull.close()


def test_a_free_port_that_is_taken_meanwhile_is_not_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own, free = taken.getsockname()[1], free_port()
        monkeypatch.setattr(ports, "FREE_PORTS", [own, own, free, *[own] * 61])
        pull = context().socket(zmq.PULL)
        configure(pull, 10, 1000)
        assert bind(pull, "tcp://127.0.0.1:*", "POMONA_X") == f"tcp://127.0.0.1:{free}"
        pull.close()


@pytest.mark.slow
def test_a_port_that_a_connection_holds_is_waited_for() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.socket()
        client.bind(("127.0.0.1", port))
        client.connect(server.getsockname())
        threading.Timer(0.6, client.close).start()
        pull = context().socket(zmq.PULL)
        configure(pull, 10, 1000)
        # The server's end closes first, so the client's leaves no TIME_WAIT behind.
        server.accept()[0].close()
        began = time.monotonic()
        assert bind(pull, f"tcp://127.0.0.1:{port}", "POMONA_X").endswith(f":{port}")
        assert time.monotonic() - began > 0.3
        pull.close()


def test_a_port_on_which_somebody_listens_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pull = context().socket(zmq.PULL)
        configure(pull, 10, 1000)
        began = time.monotonic()
        with pytest.raises(AddressInUseError, match="POMONA_X"):
            bind(pull, f"tcp://127.0.0.1:{server.getsockname()[1]}", "POMONA_X")
        assert time.monotonic() - began < 10.0
