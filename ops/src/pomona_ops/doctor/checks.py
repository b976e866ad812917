"""Every check, in the order in which they are told."""

from __future__ import annotations

from dataclasses import dataclass

from pomona_ops.doctor.cables import WIRES
from pomona_ops.doctor.machines import MACHINES
from pomona_ops.doctor.macos_settings import MACS
from pomona_ops.doctor.networks import NETWORKS
from pomona_ops.doctor.snapshot import Check, Severity, Snapshot

CHECKS: dict[str, Check] = MACS | WIRES | NETWORKS | MACHINES


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; ``remedy`` says what to do, unless it is ``ok``."""

    check: str
    severity: Severity
    said: str
    remedy: str = ""


def diagnose(sight: Snapshot) -> list[Finding]:
    """Every check's findings. One that finds nothing says that it is well, or why it could not
    look."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        faults = [Finding(name, f.severity, f.said, f.remedy) for f in check.find(sight)]
        lacking = sight.lacks(check.needs)
        well = f"not looked at: {lacking}" if lacking else check.well
        findings += faults or [Finding(name, "ok", well)]
    return findings
