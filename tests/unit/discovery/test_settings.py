"""Settings of discovery, from variables and from the file."""

from __future__ import annotations

import pytest

from pomona.errors import ConfigurationError
from pomona.settings import read_settings
from pomona_discovery.settings import DiscoverySettings


@pytest.mark.parametrize(
    ("text", "peers"),
    [
        ("", ()),
        ("10.0.0.2:52418", ("tcp://10.0.0.2:52418",)),
        (" mac-2.local:1 , tcp://10.0.0.3:2,", ("tcp://mac-2.local:1", "tcp://10.0.0.3:2")),
        ('["a:1", "tcp://b:2"]', ("tcp://a:1", "tcp://b:2")),
        ("[]", ()),
    ],
)
def test_peers_are_read_from_a_comma_separated_or_json_list(
    text: str, peers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POMONA_DISCOVERY_PEERS", text)
    assert read_settings(DiscoverySettings).peers == peers


@pytest.mark.parametrize(
    "text", ["mac-2", "[fe80::1]:1", "udp://a:1", '["a:1"', "a:1;b:2", "http://a:1/x"]
)
def test_an_invalid_peer_is_rejected_with_the_name_of_the_setting(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POMONA_DISCOVERY_PEERS", text)
    with pytest.raises(ConfigurationError, match="POMONA_DISCOVERY_PEERS"):
        read_settings(DiscoverySettings)


def test_the_settings_file_may_hold_a_list(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path_factory.mktemp("settings") / "pomona.toml"
    path.write_text('node = "mac"\n[discovery]\npeers = ["a:1"]\nmetrics_port = 9\n')
    monkeypatch.setenv("POMONA_SETTINGS", str(path))
    settings = read_settings(DiscoverySettings)
    assert (settings.node, settings.peers, settings.metrics_port) == ("mac", ("tcp://a:1",), 9)


@pytest.mark.parametrize(
    ("peer_host", "advertised_host", "data_host", "endpoint"),
    [
        ("127.0.0.1", "", "127.0.0.1", "tcp://127.0.0.1:77"),
        ("10.0.0.1", "", "10.0.0.1", "tcp://10.0.0.1:77"),
        ("0.0.0.0", "", "10.0.0.1", "tcp://10.0.0.1:77"),
        ("0.0.0.0", "mac.local", "10.0.0.1", "tcp://mac.local:77"),
    ],
)
def test_the_advertised_endpoint_follows_the_hosts_in_the_settings(
    peer_host: str, advertised_host: str, data_host: str, endpoint: str
) -> None:
    settings = DiscoverySettings(
        peer_host=peer_host, advertised_host=advertised_host, data_host=data_host
    )
    assert settings.advertised("tcp://0.0.0.0:77") == endpoint


def test_variables_without_the_prefix_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NODE", "CLUSTER", "LOG_LEVEL", "STATE_DIR"):
        monkeypatch.setenv(name, "stray")
    assert read_settings(DiscoverySettings).cluster == "pomona"
