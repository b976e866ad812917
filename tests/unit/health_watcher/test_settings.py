"""Settings of the health watcher: checks, and the secret webhook."""

from __future__ import annotations

import pytest

from pomona.errors import ConfigurationError
from pomona.settings import read_settings
from pomona_health_watcher.settings import HealthWatcherSettings

SECRET = "https://hooks.example.com/services/T000/B000/secret"


def test_the_webhook_is_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POMONA_HEALTH_WATCHER_SLACK_WEBHOOK_URL", f" {SECRET}\n")
    settings = read_settings(HealthWatcherSettings)
    assert settings.slack_webhook_url.get_secret_value() == SECRET
    assert "secret" not in repr(settings) + str(settings)


@pytest.mark.parametrize("url", ["hooks.example.com/secret", "ftp://secret", "https:// secret"])
def test_an_invalid_webhook_is_rejected_and_not_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POMONA_HEALTH_WATCHER_SLACK_WEBHOOK_URL", url)
    with pytest.raises(ConfigurationError, match="SLACK_WEBHOOK_URL") as caught:
        read_settings(HealthWatcherSettings)
    assert "secret" not in str(caught.value)


def test_the_critical_threshold_is_at_least_the_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POMONA_HEALTH_WATCHER_MEMORY_WARNING", "0.99")
    with pytest.raises(ConfigurationError, match="memory_critical"):
        read_settings(HealthWatcherSettings)
