"""Settings of the health watcher: ``POMONA_HEALTH_WATCHER_*``, or the table
``[health_watcher]`` of the settings file."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from pomona.settings import ServiceSettings
from pomona_health_watcher.conditions import AlertThresholds

_URL = re.compile(r"https?://[^\s/?#]+(/\S*)?")


class HealthWatcherSettings(ServiceSettings):
    """Settings of the health watcher, beside those that every service has."""

    model_config = SettingsConfigDict(
        env_prefix="POMONA_HEALTH_WATCHER_",
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        hide_input_in_errors=True,
    )
    section: ClassVar[str] = "health_watcher"

    slack_webhook_url: SecretStr = SecretStr("")
    """Slack incoming webhook to which alerts are posted. It is a secret: keep it out of
    arguments and logs. Empty: alerts are only logged."""
    post_deadline_s: float = Field(default=10.0, gt=0, le=60)
    """Timeout of one post, seconds."""
    give_up_after_s: float = Field(default=3600.0, gt=0, le=86400)
    """Seconds for which a post is retried while Slack cannot take it."""
    outbox_size: int = Field(default=256, ge=2, le=65536)
    """Maximum number of messages in the queue for Slack."""
    drain_deadline_s: float = Field(default=3.0, gt=0, le=60)
    """Seconds after SIGTERM in which queued messages are still posted."""
    repeat_after_s: float = Field(default=30.0, ge=0, le=86400)
    """Seconds between two raises of the same alert. What happens in between is counted and
    reported in one message afterwards."""
    stall_after_s: float = Field(default=15.0, ge=1, le=3600)
    """Seconds without progress after which a stage with queued work counts as stalled."""
    memory_warning: float = Field(default=0.90, gt=0, le=10)
    """Share of a stage worker's usable memory at which its use is a warning."""
    memory_critical: float = Field(default=0.97, gt=0, le=10)
    """Share at which it is critical; at least ``memory_warning``."""
    impossible_after_s: float = Field(default=10.0, ge=0, le=3600)
    """Seconds for which a pipeline may be impossible before that is an alert. While a cluster
    starts, the planner is often ready before the stage workers."""
    heartbeat_s: float = Field(default=0.0, ge=0, le=604800)
    """Seconds between two messages to Slack that say that the watcher runs, so that the silence of
    a dead one is noticed; 0 for none. The first is posted when the watcher is ready."""
    disk_free_warning: float = Field(default=0.10, ge=0, le=1)
    """Free share of a node's disk below which it is a warning; 0 for none."""

    @field_validator("slack_webhook_url")
    @classmethod
    def _is_url(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value().strip()
        if url and not _URL.fullmatch(url):
            raise ValueError("is not a valid http:// or https:// URL (its value is not shown)")
        return SecretStr(url)

    @model_validator(mode="after")
    def _critical_is_worse(self) -> HealthWatcherSettings:
        if self.memory_critical < self.memory_warning:
            raise ValueError("memory_critical must be at least memory_warning")
        return self

    def thresholds(self) -> AlertThresholds:
        """The settings that the rules use."""
        return AlertThresholds(
            stall_after_s=self.stall_after_s,
            memory_warning=self.memory_warning,
            memory_critical=self.memory_critical,
            impossible_after_s=self.impossible_after_s,
            disk_free_warning=self.disk_free_warning,
        )
