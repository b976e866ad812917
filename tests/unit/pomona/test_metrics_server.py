"""A metrics port that is taken keeps no service from working."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest

from pomona.errors import ConfigurationError
from pomona.metrics_server import MetricsServer
from pomona.ports import FREE_PORTS
from pomona.settings import ServiceSettings
from support.ports import free_port
from support.waiting import wait_until


def settings(tmp_path: Path, **fields: object) -> ServiceSettings:
    return ServiceSettings.model_validate({"state_dir": tmp_path, "node": "mac", **fields})


@pytest.mark.slow
def test_a_taken_port_is_served_as_soon_as_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    urls: list[str] = []
    with socket.create_server(("127.0.0.1", port)):
        server = MetricsServer(settings(tmp_path, metrics_port=port), "POMONA_X", urls.append)
        assert urls == []
        assert "POMONA_X" in caplog.text
    wait_until(lambda: urls, "the metrics are served")
    assert urls == [f"http://127.0.0.1:{port}/metrics"]
    with urllib.request.urlopen(urls[0], timeout=60) as answer:
        assert b"# TYPE" in answer.read()
    server.close()


def test_closing_ends_the_wait_for_a_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        MetricsServer(settings(tmp_path, metrics_port=port), "POMONA_X", print).close()


def test_a_free_port_is_below_those_of_clients(tmp_path: Path) -> None:
    urls: list[str] = []
    server = MetricsServer(settings(tmp_path), "POMONA_X", urls.append)
    assert int(urls[0].removesuffix("/metrics").rpartition(":")[2]) in FREE_PORTS
    server.close()


def test_a_host_of_another_machine_is_an_invalid_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="POMONA_METRICS_HOST"):
        MetricsServer(settings(tmp_path, metrics_host="192.0.2.1"), "POMONA_X", print)
