"""The list of models: state, memory, and what is on the disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pomona.cluster_report import ClusterReport, cluster_report
from pomona.messages.control import (
    GatewayFacts,
    PlannerFacts,
    StageStatus,
    StageWorkerFacts,
    WantedModel,
)
from pomona.models import EMBEDDED_MODEL
from pomona_gateway.dashboard.model_list import DiskModel, ModelEntry, model_entries, read_disk
from support.node_beacons import PIPELINE, node_beacon, worker_beacon

KNOWN = WantedModel("spare", "/models/spare", False, 1.0)


def report(usable: int = 1000, proven: bool = True) -> ClusterReport:
    status = StageStatus("tiny", 7, 0, 16, "ready", 300, 300)
    worker = replace(
        worker_beacon("w0", 0, 16), facts=StageWorkerFacts("metal", usable, 500, (status,))
    )
    epochs = {"tiny": 7} if proven else {}
    beacons = [
        node_beacon("planner", PlannerFacts((PIPELINE,), (KNOWN,))),
        node_beacon("gateway", GatewayFacts("http://h:1", proven_epochs=epochs)),
        worker,
        worker_beacon("w1", 16, 30),
    ]
    return cluster_report("c", beacons)


def entry(found: list[ModelEntry], name: str) -> ModelEntry:
    return next(x for x in found if x.name == name)


def entries(needs: int) -> list[ModelEntry]:
    disk = {KNOWN.source: DiskModel(KNOWN.source, needs, needs, needs)}
    return model_entries(report(), disk, {}, lambda _: "")


def test_a_model_is_ready_when_a_token_has_come_through_it() -> None:
    ready = model_entries(report(), {}, {}, lambda _: "")
    assert entry(ready, "tiny").state == "ready"
    waiting = model_entries(report(proven=False), {}, {}, lambda _: "no tokenizer yet")
    assert (entry(waiting, "tiny").state, entry(waiting, "tiny").reason) == (
        "loading", "no tokenizer yet"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("needs", "fits", "missing"),
    [
        (0, "", 0),
        (500, "now", 0),
        (900, "after unloading", 0),
        (650, "after unloading", 0),
        (1100, "no", 100),
    ],
)
def test_what_fits_and_what_is_missing(needs: int, fits: str, missing: int) -> None:
    # Two workers share a machine with 1,000 usable bytes, 400 of which hold weights.
    spare = entry(entries(needs), "spare")
    assert (spare.state, spare.fits, spare.missing_bytes) == ("unloaded", fits, missing)


def test_a_pull_shows_at_its_model_or_as_a_new_one() -> None:
    copy = DiskModel("a/b@c0ffee", 0, 20, 100)
    found = model_entries(report(), {copy.source: copy}, {"a/b": None, "x/y": "gone"}, lambda _: "")
    pulled = next(x for x in found if x.source == copy.source)
    assert (pulled.pull, pulled.held_bytes, pulled.total_bytes) == ("running", 20, 100)
    failed = entry(found, "x/y")
    assert (failed.pull, failed.pull_reason) == ("failed", "gone")


def test_the_disk_has_the_embedded_model() -> None:
    found = read_disk([], {})[EMBEDDED_MODEL]
    assert found.needs_bytes > found.total_bytes > 9 * 10**7
