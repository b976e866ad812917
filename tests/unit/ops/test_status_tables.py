"""``pomona status`` on a terminal of 80 columns, and on screens that are too short."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from pomona.cluster_report import ClusterReport, cluster_report
from pomona.messages.control import (
    Beacon,
    GatewayFacts,
    GroupStatus,
    HealthWatcherFacts,
    PlannerFacts,
    Prediction,
    RankStatus,
    RequestProgress,
    StageStatus,
    StageWorkerFacts,
)
from pomona.messages.discovery import DiscoveryFacts, Hardware, LinkFacts
from pomona_ops.commands.status_tables import cut_middle, fitted, rendered
from support.node_beacons import ALERT, PIPELINE, node_beacon, worker_beacon

MAC = Hardware("Apple M4 Pro", 14, 64 * 10**9, 48 * 10**9, "macOS", "26.2")
NODES = ("studio-von-zoe-im-keller-links", "studio-von-zoe-im-keller-rechts")


def _report(**changes: Beacon) -> ClusterReport:
    link = LinkFacts(NODES[1], "169.254.111.222", "thunderbolt", 80.0, 5.0, 4e9, 1e8)
    progress = tuple(
        RequestProgress(f"{n:024x}", "mlx-community/Qwen3-235B-A22B-8bit", 61.0, 9000, 4096, n)
        for n in range(12)
    )
    prediction = Prediction(20.0, 30.0, 4, 60.0, 2048, 1.5, 4096, (25e3, 25e3), notes=("a note",))
    pipeline = replace(PIPELINE, prediction=prediction)
    beacons = {
        "discovery": node_beacon("discovery", DiscoveryFacts(MAC, links=(link,))),
        "planner": node_beacon("planner", PlannerFacts((pipeline,))),
        "gateway": node_beacon(
            "gateway", GatewayFacts("http://h:1", 3, {"tiny": 7}, (), {}, progress)
        ),
        "health_watcher": node_beacon("health_watcher", HealthWatcherFacts((ALERT,))),
        "w0": worker_beacon("w0", 0, 16),
        "w1": worker_beacon("w1", 16, 30),
    } | changes
    found = cluster_report("c", beacons.values())
    named = [
        replace(stage, worker=f"{node}.stage_worker")
        for stage, node in zip(found.pipelines[0].stages, NODES, strict=False)
    ]
    return replace(found, pipelines=(replace(found.pipelines[0], stages=tuple(named)),))


def _lines(content: RenderableType, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), highlight=False)
    console.print(content)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO


def test_names_that_differ_at_their_ends_stay_apart_at_80_columns() -> None:
    lines = _lines(rendered(_report()))
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.lstrip().startswith(("0..16", "16..30"))]
    names = [row.split()[1] for row in rows]
    assert len(set(names)) == 2
    assert all("…" in name and name.startswith("st") for name in names)
    assert names[0].endswith("ge_worker")


def test_columns_without_content_are_left_out() -> None:
    text = "\n".join(_lines(rendered(_report()), 132))
    assert "ms planned" in text
    assert "MLX" not in text


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_table_leaves_out_numbers_and_cuts_none(width: int) -> None:
    status = StageStatus("tiny", 7, 0, 16, "ready", 354 * 10**6, 354 * 10**6)
    facts = StageWorkerFacts(
        "cpu", 10**10, 561 * 10**6, (status,), cache_bytes=67 * 10**5,
        active_bytes=360 * 10**6, cached_bytes=21 * 10**6,
    )  # fmt: skip
    lines = _lines(rendered(_report(w0=node_beacon("w0", facts))), width)
    assert max(map(len, lines)) <= width
    (row,) = (line for line in lines if line.lstrip().startswith("0..16"))
    assert "…" in row.split()[1]
    assert "561.0 MB" in row
    assert "kept" not in row


@pytest.mark.parametrize("ranks", [0, 3])
@pytest.mark.parametrize("width", range(62, 132, 3))
def test_no_heading_and_no_number_of_a_stage_is_cut(width: int, ranks: int) -> None:
    group = GroupStatus("ring", (RankStatus("w0", 1),) * ranks) if ranks else None
    status = StageStatus(
        "tiny", 7, 0, 16, "ready", 354 * 10**6, 354 * 10**6, decode_us=54321.0, group=group
    )  # fmt: skip
    facts = StageWorkerFacts(
        "cpu", 10**10, 561 * 10**6, (status,), cache_bytes=67 * 10**5,
        active_bytes=360 * 10**6, cached_bytes=21 * 10**6,
    )  # fmt: skip
    lines = _lines(rendered(_report(w0=node_beacon("w0", facts))), width)
    (heading,) = (line for line in lines if line.lstrip().startswith("layers"))
    (row,) = (line for line in lines if line.lstrip().startswith("0..16"))
    assert set(heading.split()) <= {
        "layers", "stage", "worker", "state", "weights", "memory", "MLX", "caches", "ms",
        "planned", "measured",
    }  # fmt: skip
    assert ("measured" in heading) == ("54.3" in row)


@pytest.mark.parametrize("height", [4, 10, 16, 24, 40, 100])
@pytest.mark.parametrize("width", [60, 80, 132])
def test_a_watched_report_fits_the_screen_and_says_what_it_leaves_out(
    width: int, height: int
) -> None:
    console = Console(width=width, height=height, file=io.StringIO(), highlight=False)
    report = _report()
    console.print(fitted(report, console))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO
    assert len(lines) <= height
    assert "c is degraded" in lines[0]
    assert max(map(len, lines)) <= width
    is_whole = len(_lines(rendered(report), width, height)) < height
    assert ("not shown on this screen: " in "\n".join(lines)) != is_whole or height < 8


@given(st.text(max_size=40), st.integers(0, 50))
def test_a_cut_name_keeps_both_ends_within_its_width(text: str, width: int) -> None:
    found = cut_middle(text, width)
    assert len(found) <= width
    if len(text) <= width:
        assert found == text
    elif width >= 3:
        assert found[0] == text[0]
        assert found[-1] == text[-1]


def test_a_cluster_without_a_planner_shows_what_its_heads_serve() -> None:
    head = worker_beacon("w0", 0, 16)
    assert isinstance(head.facts, StageWorkerFacts)
    beacons = [
        node_beacon("discovery", DiscoveryFacts(MAC)),
        node_beacon("gateway", GatewayFacts("http://h:1", 3, {"tiny": 7})),
        node_beacon("health_watcher", HealthWatcherFacts()),
        replace(head, facts=replace(head.facts, pipelines=(PIPELINE,))),
        worker_beacon("w1", 16, 30),
    ]
    report = cluster_report("c", beacons)
    assert [pipeline.model for pipeline in report.pipelines] == ["tiny"]
    (trouble,) = report.troubles
    assert trouble.startswith("no beacon from any planner: answers go on")


def test_a_stage_that_a_group_holds_names_its_ranks_and_their_backend() -> None:
    beacon = worker_beacon("w0", 0, 16)
    assert isinstance(beacon.facts, StageWorkerFacts)
    ranks = tuple(RankStatus("w0", 10 + n, 5, 100) for n in range(3))
    group = GroupStatus("ring", ranks, 300)
    stages = tuple(replace(stage, group=group) for stage in beacon.facts.stages)
    report = _report(w0=replace(beacon, facts=replace(beacon.facts, stages=stages)))
    held, other = report.pipelines[0].stages
    assert held.group == group
    assert other.group is None
    assert "3 ranks (ring)" in "\n".join(_lines(rendered(report), width=160))
