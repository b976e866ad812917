"""Settings that ``invite`` and ``join`` leave in the state folder are the weakest ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona.errors import ConfigurationError
from pomona.network_settings import FILE, network_settings, read_network, write_network
from pomona.settings import read_settings
from pomona_discovery.settings import DiscoverySettings


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POMONA_STATE_DIR", str(tmp_path))
    write_network(
        tmp_path,
        {"node": 'mi"ni', "data_host": "0.0.0.0"},
        {"discovery": {"peer_host": "0.0.0.0", "peers": ["10.0.0.1:22418"]}, "head": {"n": 1}},
    )
    return tmp_path


def test_the_file_is_read_back_and_private(state: Path) -> None:
    assert network_settings(state, "discovery") == {
        "node": 'mi"ni',
        "data_host": "0.0.0.0",
        "peer_host": "0.0.0.0",
        "peers": ["10.0.0.1:22418"],
    }
    assert network_settings(state, "planner") == {"node": 'mi"ni', "data_host": "0.0.0.0"}
    assert read_network(state)["head"] == {"n": 1}
    assert (state / FILE).stat().st_mode & 0o077 == 0


def test_services_read_it_and_variables_come_first(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_network(
        state,
        {"node": "mini", "data_host": "0.0.0.0"},
        {"discovery": {"peer_host": "0.0.0.0", "peers": ["10.0.0.1:22418"]}},
    )
    settings = read_settings(DiscoverySettings)
    assert (settings.node, settings.data_host, settings.peer_host) == ("mini", "0.0.0.0", "0.0.0.0")
    assert settings.peers == ("tcp://10.0.0.1:22418",)
    monkeypatch.setenv("POMONA_NODE", "other")
    monkeypatch.setenv("POMONA_DATA_HOST", "10.0.0.2")
    monkeypatch.setenv("POMONA_DISCOVERY_PEER_HOST", "10.0.0.3")
    settings = read_settings(DiscoverySettings)
    assert (settings.node, settings.data_host) == ("other", "10.0.0.2")
    assert settings.peer_host == "10.0.0.3"


def test_a_command_may_give_the_folder(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POMONA_STATE_DIR")
    write_network(state, {"node": "mini"}, {})
    assert read_settings(DiscoverySettings, state_dir=state).node == "mini"


def test_a_damaged_file_is_named(state: Path) -> None:
    (state / FILE).write_text("node = ")
    with pytest.raises(ConfigurationError, match=FILE):
        read_settings(DiscoverySettings)


@pytest.mark.parametrize(
    ("peer_host", "data_host", "named"),
    [
        ("0.0.0.0", "127.0.0.1", "set POMONA_DATA_HOST=0.0.0.0"),
        ("10.0.0.1", "localhost", "set POMONA_DATA_HOST=0.0.0.0"),
        ("127.0.0.1", "10.0.0.1", "set POMONA_DISCOVERY_PEER_HOST=0.0.0.0"),
    ],
)
def test_a_loopback_address_beside_an_open_one_is_refused_with_the_remedy(
    peer_host: str,
    data_host: str,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POMONA_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("POMONA_DISCOVERY_PEER_HOST", peer_host)
    monkeypatch.setenv("POMONA_DATA_HOST", data_host)
    with pytest.raises(ConfigurationError, match=named):
        read_settings(DiscoverySettings)
