"""Doctor is not content while a model has no pipeline, and ignores measurements under load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.messages.control import Pipeline
from pomona.messages.discovery import Hardware, LinkFacts, NodeFacts
from pomona_ops.doctor.checks import Finding, diagnose
from pomona_ops.doctor.snapshot import Node, Severity, Snapshot
from support.node_beacons import PIPELINE

MACHINE = Node("a", Hardware("chip", 4, 1, 1, "Linux", "1"), NodeFacts(), "0.1.0")


def of(check: str, snapshot: Snapshot) -> Finding:
    (found,) = [finding for finding in diagnose(snapshot) if finding.check == check]
    return found


@pytest.mark.parametrize(
    ("pipeline", "severity", "said"),
    [
        (PIPELINE, "ok", "every model has its pipeline"),
        (replace(PIPELINE, state="forming", reason="b is gone"), "warning", "b is gone"),
        (replace(PIPELINE, state="impossible", reason="2 GB too much"), "critical", "2 GB too"),
    ],
)
def test_a_model_without_a_pipeline_is_a_fault(
    pipeline: Pipeline, severity: Severity, said: str
) -> None:
    finding = of("pipelines", Snapshot((MACHINE,), running=True, pipelines=(pipeline,)))
    assert finding.severity == severity
    assert said in finding.said


def test_a_cluster_without_a_planner_is_a_fault() -> None:
    finding = of("pipelines", Snapshot((MACHINE,), running=True, has_planner=False))
    assert finding.severity == "critical"
    assert "pomona up" in finding.remedy


@pytest.mark.parametrize(("busy", "severity"), [(False, "warning"), (True, "ok")])
def test_rates_that_were_measured_under_load_are_not_compared(
    busy: bool, severity: Severity
) -> None:
    def one(name: str, other: str, rate: float, busy: bool = False) -> Node:
        link = LinkFacts(other, "10.0.0.2", "ethernet", 80.0, 5.0, rate, 1e6, busy=busy)
        return replace(MACHINE, name=name, links=(link,))

    snapshot = Snapshot((one("a", "b", 1e8, busy), one("b", "a", 1e9)), running=True)
    assert of("asymmetry", snapshot).severity == severity
