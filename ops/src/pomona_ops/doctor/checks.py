"""All checks, in the order of the output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pomona_ops.doctor.bridge_loops import BRIDGE_CHECKS
from pomona_ops.doctor.cables import CABLE_CHECKS
from pomona_ops.doctor.machines import MACHINE_CHECKS
from pomona_ops.doctor.macos_settings import MACOS_CHECKS
from pomona_ops.doctor.networks import NETWORK_CHECKS
from pomona_ops.doctor.pipelines import PIPELINE_CHECKS
from pomona_ops.doctor.snapshot import Check, Severity, Snapshot
from pomona_ops.doctor.unattended import UNATTENDED_CHECKS

CHECKS: dict[str, Check] = (
    MACOS_CHECKS
    | UNATTENDED_CHECKS
    | BRIDGE_CHECKS
    | CABLE_CHECKS
    | NETWORK_CHECKS
    | MACHINE_CHECKS
    | PIPELINE_CHECKS
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check, as ``pomona doctor --json`` prints it.

    Attributes:
        said: the fault, or that all is well.
        remedy: what to do; empty for ``ok``.
    skipped: the reason why nothing was looked at; empty for a check that ran.
    """

    check: str
    severity: Severity
    said: str
    remedy: str = ""
    skipped: str = ""


def openblas(advice: str, remedy: str) -> Finding:
    """Returns the finding about this machine's BLAS.

    Args:
        advice: what a missing OpenBLAS costs; empty when nothing is missing.
    """
    if advice:
        return Finding("openblas", "info", advice, remedy)
    return Finding("openblas", "ok", "the CPU's matrix library is the fast one")


def diagnose(snapshot: Snapshot, checks: Mapping[str, Check] | None = None) -> list[Finding]:
    """Runs the checks, by default :data:`CHECKS`.

    A check without a fault yields one ``ok`` finding, which says so or says why the check did not
    apply.
    """
    findings: list[Finding] = []
    for name, check in (CHECKS if checks is None else checks).items():
        faults = [Finding(name, f.severity, f.description, f.remedy) for f in check.find(snapshot)]
        missing = snapshot.missing(check.needs)
        passed = f"not checked: {missing}" if missing else check.passed
        findings += faults or [Finding(name, "ok", passed, skipped=missing)]
    return findings
