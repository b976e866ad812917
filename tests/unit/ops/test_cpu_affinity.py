"""Each stage worker has cores of its own, and no two share one that shows itself as two."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pomona_ops.cluster.cpu_affinity import by_core, one_of_each, share_out, shares


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        ([0, 1], 2, [{0}, {1}]),
        ([0, 4, 1, 5], 2, [{0, 4}, {1, 5}]),
        ([0, 1, 2], 2, [{0}, {1}]),
        ([2, 3], 3, [{2}, {3}, {2}]),
    ],
)
def test_cores_are_shared_out(cores: list[int], workers: int, expected: list[set[int]]) -> None:
    assert share_out(cores, workers) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["0,2", "1,3", "0,2", "1,3"], [0, 2, 1, 3]),
        (["0-1", "0-1", "2-3", "2-3"], [0, 1, 2, 3]),
        ([], [0, 1, 2, 3]),
    ],
)
def test_the_threads_of_a_core_are_neighbours(
    tmp_path: Path, files: list[str], expected: list[int]
) -> None:
    for cpu, text in enumerate(files):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    assert by_core({0, 1, 2, 3}, tmp_path) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="macOS keeps no process on a core")
@pytest.mark.parametrize(("cpus", "count"), [({0, 1}, 2), (set(range(16)), 2), ({3}, 1)])
def test_one_core_each_is_of_each_share(
    monkeypatch: pytest.MonkeyPatch, cpus: set[int], count: int
) -> None:
    def allowed(pid: int) -> set[int]:
        return cpus

    monkeypatch.setattr(os, "sched_getaffinity", allowed)
    assert len(one_of_each(2)) == count
    assert all(one_of_each(2) & share for share in shares(2))
