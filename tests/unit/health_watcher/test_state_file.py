"""The state file: round trip, damaged files, expected services."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pomona.messages.control import Alert
from pomona_health_watcher.loss_rules import KnownService
from pomona_health_watcher.state_file import VALID_S, WatcherState, read_state, write_state

ALIVE = KnownService("mac.gateway", "mac", "gateway", "boot1", "ready")
LOST = KnownService("mac.planner", "mac", "planner", "boot1", "ready", lost=True, alerted=True)
SILENT = KnownService("b.gateway", "b", "gateway", "boot1", "ready", lost=True)
ALERT = Alert("service_lost/mac.planner", "critical", "gone", 1.7e9)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "mac.health_watcher.json"
    state = WatcherState(1.7e9, False, (ALERT,), (ALIVE, LOST))
    write_state(path, state)
    assert read_state(path) == state
    assert [x.name for x in path.parent.iterdir()] == [path.name], "nothing is left behind"


def test_a_missing_file_is_no_state(tmp_path: Path) -> None:
    assert read_state(tmp_path / "none.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"at": "x"}', b"\xff\xfe", b"null"])
def test_a_damaged_file_is_ignored(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    assert read_state(path) is None


def test_a_file_that_cannot_be_written_is_logged_and_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "state.json"
    write_state(path, WatcherState(0.0, True))
    assert read_state(path) is None
    assert "state file cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("clean", "age_s", "expected"),
    [
        (False, 10, [ALIVE, LOST, SILENT]),
        (True, 10, [LOST]),
        (False, VALID_S + 1, []),
        (True, VALID_S + 1, []),
    ],
)
def test_services_expected_after_a_restart(
    clean: bool, age_s: float, expected: list[KnownService]
) -> None:
    state = WatcherState(1.7e9, clean, (ALERT,), (ALIVE, LOST, SILENT))
    assert list(state.expected_services(1.7e9 + age_s)) == expected


def test_the_keys_of_the_file_are_those_of_earlier_versions(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_state(path, WatcherState(1.7e9, False, (ALERT,), (LOST,)))
    content = json.loads(path.read_bytes())
    assert set(content) == {"at", "clean", "told", "known"}
    assert {"lost", "alone", "with_node"} <= set(content["known"][0])
