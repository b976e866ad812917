"""Each stage worker gets cores of its own, and two threads of one core go to one worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pomona import host
from pomona_ops.cluster.cpu_affinity import divide, one_core_each, shares, sorted_by_core


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        ([0, 1], 2, [{0}, {1}]),
        ([0, 4, 1, 5], 2, [{0, 4}, {1, 5}]),
        ([0, 1, 2], 2, [{0}, {1}]),
        ([2, 3], 3, [{2}, {3}, {2}]),
    ],
)
def test_cores_are_divided_among_workers(
    cores: list[int], workers: int, expected: list[set[int]]
) -> None:
    assert divide(cores, workers) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["0,2", "1,3", "0,2", "1,3"], [0, 2, 1, 3]),
        (["0-1", "0-1", "2-3", "2-3"], [0, 1, 2, 3]),
        ([], [0, 1, 2, 3]),
    ],
)
def test_the_threads_of_a_core_are_consecutive(
    tmp_path: Path, files: list[str], expected: list[int]
) -> None:
    for cpu, text in enumerate(files):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    assert sorted_by_core({0, 1, 2, 3}, tmp_path) == expected


@pytest.mark.skipif(not host.is_linux(), reason="macOS cannot pin a process to a core")
@pytest.mark.parametrize(("cpus", "count"), [({0, 1}, 2), (set(range(16)), 2), ({3}, 1)])
def test_one_core_each_takes_one_of_each_share(
    monkeypatch: pytest.MonkeyPatch, cpus: set[int], count: int
) -> None:
    def allowed(pid: int) -> set[int]:
        return cpus

    monkeypatch.setattr(os, "sched_getaffinity", allowed)
    assert len(one_core_each(2)) == count
    assert all(one_core_each(2) & share for share in shares(2))
