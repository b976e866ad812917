"""SIGSTOP of a stage worker in mid-answer: it is ended, comes back, and no answer is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Sequence

import pytest

from support.chaos.streams import Stream, ended, started, wait_for_more
from support.clusters import Cluster, serving

STREAMS = 4
TOKENS = 96
BEFORE = 8
"""Chunks that each stream has received when the worker is stopped."""
NEXT_S = 40.0
"""Deadline for the first text after the stop. A loaded machine takes longer than the 12 s of an
idle one."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with serving(tmp_path_factory.mktemp("stop")) as running:
        yield running


def streams(cluster: Cluster, chunks: int = 0) -> Sequence[Stream]:
    return started([Stream(cluster.url, number, TOKENS) for number in range(STREAMS)], chunks)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> object:
    """The replies of the streams when nothing is stopped."""
    return ended(streams(cluster))


@pytest.mark.parametrize("name", ["stage_worker.1", "stage_worker.0"])
def test_a_stopped_stage_worker_costs_no_answer(
    cluster: Cluster, undisturbed: object, name: str
) -> None:
    pid = cluster.pids()[name]
    running = streams(cluster, BEFORE)
    os.kill(pid, signal.SIGSTOP)
    wait_for_more(running, NEXT_S)
    assert ended(running) == undisturbed
    assert f"process {pid} sends no beacons and is ended" in cluster.output
