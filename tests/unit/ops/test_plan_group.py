"""Tests of the tensor group that a plan shows beside its pipeline."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pomona_ops.cli import app


def group_of(cluster: str, model: str = "qwen3-235b-a22b") -> tuple[dict[str, object], str]:
    """Returns the group of the command's JSON, and what it prints."""
    arguments = ["plan", model, "--cluster", cluster]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    return found["group"], " ".join(CliRunner().invoke(app, arguments).output.split())


def test_equal_macs_with_thunderbolt_5_have_a_predicted_group_and_what_it_needs() -> None:
    group, printed = group_of("4x:m3-ultra-256gb")
    assert group["possible"]
    two = group_of("2x:m3-ultra-256gb")[0]
    assert float(str(two["tokens_per_second"])) < float(str(group["tokens_per_second"]))
    for need in ("26.2", "recovery mode", "Bridge", "6 Thunderbolt 5 cables", "does not run"):
        assert need in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        ("5x:m3-ultra-256gb", "2 to 4 machines"),
        ("m3-ultra-256gb,m4-max-128gb", "equal machines"),
        ("2x:m2-ultra-192gb", "RDMA needs Thunderbolt 5, and no setting adds it"),
        ("2x:m4-pro-64gb", "GB of weights"),
    ],
)
def test_what_cannot_be_a_group_has_the_reason(cluster: str, reason: str) -> None:
    group, printed = group_of(cluster)
    assert not group["possible"]
    assert reason in str(group["reason"])
    assert reason in printed


def test_one_machine_has_no_group() -> None:
    assert "as a group" not in group_of("m3-ultra-512gb")[1]
