"""Processes of ``pomona up``, from its options."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona.models import EMBEDDED_MODEL
from pomona_ops.cluster.processes import cluster_options, service_specs
from support.ports import free_ports


@pytest.mark.parametrize(
    ("stages", "group", "workers", "ranks"),
    [(None, 3, 1, "3"), (2, 2, 2, "2"), (None, None, 2, None)],
)
def test_a_group_has_one_stage_unless_more_are_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stages: int | None,
    group: int | None,
    workers: int,
    ranks: str | None,
) -> None:
    monkeypatch.setenv("POMONA_STATE_DIR", str(tmp_path))
    options = cluster_options(EMBEDDED_MODEL, stages, free_ports().first, group=group)
    found = [x for x in service_specs(options) if x.name.startswith("stage_worker")]
    assert len(found) == workers
    assert {x.environment.get("POMONA_STAGE_WORKER_GROUP") for x in found} == {ranks}
