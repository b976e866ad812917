"""Settings of the health watcher: ``POMONA_HEALTH_WATCHER_*``, or the table
``[health_watcher]`` of the file."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from pomona.settings import ServiceSettings
from pomona_health_watcher.rules import AlertThresholds

_URL = re.compile(r"https?://[^\s/?#]+(/\S*)?")


class HealthWatcherSettings(ServiceSettings):
    """What the health watcher needs to know beyond what every service does."""

    model_config = SettingsConfigDict(
        env_prefix="POMONA_HEALTH_WATCHER_",
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        hide_input_in_errors=True,
    )
    section: ClassVar[str] = "health_watcher"

    slack_webhook_url: SecretStr = SecretStr("")
    """Slack incoming webhook that alerts are posted to. It is a key: keep it out of
    arguments and logs. Empty: alerts are logged only."""
    post_deadline_s: float = Field(default=10.0, gt=0, le=60)
    """Seconds one attempt to post may take."""
    give_up_after_s: float = Field(default=3600.0, gt=0, le=86400)
    """Seconds a message is tried again while Slack cannot take it."""
    outbox_size: int = Field(default=256, ge=2, le=65536)
    """Messages that wait for Slack at most."""
    drain_deadline_s: float = Field(default=3.0, gt=0, le=60)
    """Seconds after SIGTERM in which waiting messages are still posted."""
    repeat_after_s: float = Field(default=30.0, ge=0, le=86400)
    """The same alert is raised at most once in this many seconds; what happens in between
    is counted and told in one message afterwards."""
    stall_after_s: float = Field(default=15.0, ge=1, le=3600)
    """Seconds without progress, while work is queued, after which a stage is stalled."""
    memory_warning: float = Field(default=0.90, gt=0, le=10)
    """Share of the usable memory from which a stage worker's use is a warning."""
    memory_critical: float = Field(default=0.97, gt=0, le=10)
    """Share from which it is critical; not below the warning."""
    impossible_after_s: float = Field(default=10.0, ge=0, le=3600)
    """Seconds a pipeline may be impossible before that is an alert: at a start the planner
    is often up before the stage workers."""

    @field_validator("slack_webhook_url")
    @classmethod
    def _is_url(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value().strip()
        if url and not _URL.fullmatch(url):
            raise ValueError("not a URL that begins with https:// (its value is not shown)")
        return SecretStr(url)

    @model_validator(mode="after")
    def _critical_is_worse(self) -> HealthWatcherSettings:
        if self.memory_critical < self.memory_warning:
            raise ValueError("memory_critical is below memory_warning")
        return self

    def limits(self) -> AlertThresholds:
        """What the rules need of this."""
        return AlertThresholds(
            stall_after_s=self.stall_after_s,
            memory_warning=self.memory_warning,
            memory_critical=self.memory_critical,
            impossible_after_s=self.impossible_after_s,
        )
