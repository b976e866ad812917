"""Conditions, which the rules find, and the thresholds at which they find them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pomona.messages.control import Beacon

Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True)
class Condition:
    """Something wrong.

    Attributes:
        key: ``kind/subject``; the same fault always has the same key.
        age_s: seconds since it began.
        over_s: seconds since its effect ended, of a condition that is kept for repetitions.
        count: how often it has happened; the alert is raised again when the count grows.
    """

    key: str
    severity: Severity
    summary: str
    age_s: float = 0.0
    over_s: float = 0.0
    count: int = 1


@dataclass(frozen=True, slots=True)
class AlertThresholds:
    """Thresholds of the rules; see the settings of the same names."""

    stall_after_s: float = 15.0
    memory_warning: float = 0.90
    memory_critical: float = 0.97
    impossible_after_s: float = 10.0
    disk_free_warning: float = 0.10


def service_title(service: str, name: str) -> str:
    """Names a service in a summary: ``stage worker mac.stage_worker.0``."""
    return f"{service.replace('_', ' ')} {name}"


def title_of(beacon: Beacon) -> str:
    """Names the sender of a beacon in a summary."""
    return service_title(beacon.facts.service, beacon.name)
