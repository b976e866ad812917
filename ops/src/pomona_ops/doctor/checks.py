"""Every check, in the order in which they are told."""

from __future__ import annotations

from dataclasses import dataclass

from pomona_ops.doctor.machines import MACHINES
from pomona_ops.doctor.macs import MACS
from pomona_ops.doctor.networks import NETWORKS
from pomona_ops.doctor.sight import Check, Severity, Sight
from pomona_ops.doctor.wires import WIRES

CHECKS: dict[str, Check] = MACS | WIRES | NETWORKS | MACHINES

NO_MAC = "not looked at: no node is a Mac"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; ``remedy`` says what to do, unless it is ``ok``."""

    check: str
    severity: Severity
    said: str
    remedy: str = ""


def diagnose(sight: Sight) -> list[Finding]:
    """Every check's findings; a check that finds nothing says that it is well."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        faults = [Finding(name, f.severity, f.said, f.remedy) for f in check.find(sight)]
        idle = check.macs_only and not sight.macs
        findings += faults or [Finding(name, "ok", NO_MAC if idle else check.well)]
    return findings
