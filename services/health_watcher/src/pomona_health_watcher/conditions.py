"""Conditions, which the rules find, and the thresholds at which they find them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pomona.messages.control import Beacon

Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True)
class Condition:
    """Something wrong. ``key`` is ``kind/subject``; the same fault always has the same key."""

    key: str
    severity: Severity
    summary: str


@dataclass(frozen=True, slots=True)
class AlertThresholds:
    """Thresholds of the rules; see the settings of the same names."""

    stall_after_s: float = 15.0
    memory_warning: float = 0.90
    memory_critical: float = 0.97
    impossible_after_s: float = 10.0


def service_title(service: str, name: str) -> str:
    """Names a service in a summary: ``stage worker mac.stage_worker.0``."""
    return f"{service.replace('_', ' ')} {name}"


def title_of(beacon: Beacon) -> str:
    """Names the sender of a beacon in a summary."""
    return service_title(beacon.facts.service, beacon.name)
