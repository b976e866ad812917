"""What outlives the health watcher, and its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona.errors import ConfigurationError
from pomona.messages.control import Alert
from pomona.settings import read_settings
from pomona_health_watcher.rules import Known
from pomona_health_watcher.settings import HealthWatcherSettings
from pomona_health_watcher.state_file import VALID_S, WatcherState, read_state, write_state

ALIVE = Known("mac.gateway", "mac", "gateway", "boot1", "ready")
LOST = Known("mac.planner", "mac", "planner", "boot1", "ready", lost=True, alone=True)
SILENT = Known("b.gateway", "b", "gateway", "boot1", "ready", lost=True)
ALERT = Alert("service_lost/mac.planner", "critical", "gone", 1.7e9)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "mac.health_watcher.json"
    record = WatcherState(1.7e9, False, (ALERT,), (ALIVE, LOST))
    write_state(path, record)
    assert read_state(path) == record
    assert [x.name for x in path.parent.iterdir()] == [path.name], "nothing is left behind"


def test_no_record_is_no_trouble(tmp_path: Path) -> None:
    assert read_state(tmp_path / "none.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"at": "x"}', b"\xff\xfe", b"null"])
def test_a_damaged_record_counts_as_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    assert read_state(path) is None


def test_a_record_that_cannot_be_kept_does_not_stop_the_watcher(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_state(tmp_path / "file" / "record.json", WatcherState(0.0, True))


@pytest.mark.parametrize(
    ("clean", "age_s", "expected"),
    [
        (False, 10, [ALIVE, LOST, SILENT]),
        (True, 10, [LOST]),
        (False, VALID_S + 1, []),
        (True, VALID_S + 1, []),
    ],
)
def test_who_is_expected_after_a_restart(clean: bool, age_s: float, expected: list[Known]) -> None:
    record = WatcherState(1.7e9, clean, (ALERT,), (ALIVE, LOST, SILENT))
    assert list(record.expected(1.7e9 + age_s)) == expected


# Settings ------------------------------------------------------------------------------

SECRET = "https://hooks.example.com/services/T000/B000/secret"


def test_the_webhook_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POMONA_HEALTH_WATCHER_SLACK_WEBHOOK_URL", f" {SECRET}\n")
    settings = read_settings(HealthWatcherSettings)
    assert settings.slack_webhook_url.get_secret_value() == SECRET
    assert "secret" not in repr(settings) + str(settings)


@pytest.mark.parametrize("url", ["hooks.example.com/secret", "ftp://secret", "https:// secret"])
def test_a_bad_webhook_is_refused_without_being_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POMONA_HEALTH_WATCHER_SLACK_WEBHOOK_URL", url)
    with pytest.raises(ConfigurationError, match="SLACK_WEBHOOK_URL") as caught:
        read_settings(HealthWatcherSettings)
    assert "secret" not in str(caught.value)


def test_critical_is_not_below_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POMONA_HEALTH_WATCHER_MEMORY_WARNING", "0.99")
    with pytest.raises(ConfigurationError, match="memory_critical"):
        read_settings(HealthWatcherSettings)
