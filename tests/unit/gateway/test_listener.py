"""The listening socket: bound here, or inherited."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pomona.errors import AddressInUseError, ConfigurationError
from pomona_gateway.listener import LISTEN_FD_VARIABLE, open_listener


def test_bound_port_is_named_when_it_is_in_use() -> None:
    with open_listener("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(AddressInUseError, match="POMONA_GATEWAY_PORT"):
            open_listener("127.0.0.1", port)


def test_inherited_socket_is_used_once_and_keeps_its_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        monkeypatch.setenv(LISTEN_FD_VARIABLE, str(os.dup(held.fileno())))
        with open_listener("127.0.0.1", 1) as inherited:
            assert inherited.getsockname() == held.getsockname()
            assert inherited.proto == socket.IPPROTO_TCP
            assert not os.get_inheritable(inherited.fileno())
        assert LISTEN_FD_VARIABLE not in os.environ
        with socket.create_connection(held.getsockname()):
            pass


def test_systemd_sockets_of_another_process_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    with open_listener("127.0.0.1", 0) as bound:
        assert bound.getsockname()[1]
    assert "LISTEN_FDS" not in os.environ


@pytest.mark.parametrize("value", ["x", "-1", "9999"])
def test_inherited_descriptor_that_cannot_listen_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(LISTEN_FD_VARIABLE, value)
    with pytest.raises(ConfigurationError, match=r"POMONA_GATEWAY_LISTEN_FD|descriptor"):
        open_listener("127.0.0.1", 0)


def test_inherited_file_is_not_a_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    monkeypatch.setenv(LISTEN_FD_VARIABLE, str(descriptor))
    try:
        with pytest.raises(ConfigurationError, match="not a listening TCP socket"):
            open_listener("127.0.0.1", 0)
    finally:
        os.close(descriptor)
