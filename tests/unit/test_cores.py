"""Each stage worker has cores of its own, and no two share one that shows itself as two."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomona_ops.cores import by_core, share_out


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
