"""Default names of nodes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pomona.node_name import keep_node_name, node_name, valid_name
from pomona.settings import ServiceSettings, read_settings
from support.mac.machines import STUDIO, answer_as


@pytest.mark.parametrize(
    ("host_name", "name"),
    [
        ("mini.local", "mini"),
        ("Zoé’s Mac Studio", "Zoes-Mac-Studio"),
        ("ミニ", "node"),
        ("", "node"),
        ("-._", "node"),
        ("x" * 60, "x" * 48),
    ],
)
def test_every_host_name_becomes_a_valid_name(host_name: str, name: str) -> None:
    assert valid_name(host_name) == name


def test_a_node_keeps_its_name_when_its_host_is_renamed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "mini.lan")
    state = tmp_path / "new"
    assert keep_node_name(state, node_name(state)) == "mini"
    monkeypatch.setattr(socket, "gethostname", lambda: "dhcp-17.lan")
    assert node_name(state) == "mini"
    assert keep_node_name(state, "dhcp-17") == "mini"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["node"]


def test_a_macs_local_host_name_is_preferred(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer_as(monkeypatch, STUDIO)
    assert node_name(tmp_path) == "Studio-von-Zoe"


def test_a_service_starts_on_a_host_whose_name_is_not_ascii(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Büro-Mac.local")
    monkeypatch.setenv("POMONA_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("POMONA_NODE", raising=False)
    assert read_settings(ServiceSettings).node == "Buro-Mac"


def test_a_damaged_name_or_a_read_only_folder_does_not_stop_a_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "mini")
    (tmp_path / "node").write_bytes(b"\xff\xfe")
    assert node_name(tmp_path) == "mini"
    (tmp_path / "node").write_text("no valid name")
    assert node_name(tmp_path) == "mini"
    below_a_file = tmp_path / "node" / "below"
    assert keep_node_name(below_a_file, node_name(below_a_file)) == "mini"
