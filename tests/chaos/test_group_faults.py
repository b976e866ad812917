"""Tests that a killed or stopped rank of a tensor group costs a pause, and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from itertools import pairwise

import psutil
import pytest

from support.chaos.streams import Stream, ended, started, wait_for_more
from support.clusters import Cluster, serving
from support.waiting import wait_until

RANKS = 3
STREAMS = 4
TOKENS = 48
NEXT_TOKEN_S = 180.0
"""Deadline on a loaded machine; docs/MEASUREMENTS.md has the figures."""
READY_S = 180.0

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    folder = tmp_path_factory.mktemp("group")
    with serving(folder, stages=1, variables={"POMONA_STAGE_WORKER_GROUP": str(RANKS)}) as running:
        yield running


@pytest.fixture(scope="module")
def whole(cluster: Cluster) -> list[str]:
    """The replies when nothing fails."""
    return ended(started([Stream(cluster.url, number, TOKENS) for number in range(STREAMS)]))


def ranks(cluster: Cluster) -> list[int]:
    """Returns the ranks' process ids of the active pipeline, as status names them."""
    [pipeline] = cluster.status()["pipelines"]
    group = pipeline["stages"][0]["group"]
    return [rank["pid"] for rank in group["ranks"]] if group is not None else []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda x: x.name)
@pytest.mark.parametrize("rank", range(RANKS))
def test_four_answers_go_on_exactly_when_a_rank_is_killed_or_stopped(
    cluster: Cluster, whole: list[str], rank: int, number: signal.Signals
) -> None:
    wait_until(lambda: len(ranks(cluster)) == RANKS, "a group of three", READY_S)
    before = ranks(cluster)
    processes = [psutil.Process(pid) for pid in before]
    streams = started([Stream(cluster.url, n, TOKENS) for n in range(STREAMS)], chunks=4)
    struck_at = time.monotonic()
    os.kill(before[rank], number)
    wait_for_more(streams, NEXT_TOKEN_S)
    assert ended(streams) == whole
    paused_s = max(
        later - earlier
        for stream in streams
        for earlier, later in pairwise(stream.at)
        if later > struck_at
    )
    print(f"rank {rank}, {number.name}: paused {paused_s:.1f} s")
    assert paused_s < NEXT_TOKEN_S
    wait_until(lambda: not any(map(psutil.Process.is_running, processes)), "the old ranks ended")
    wait_until(lambda: len(ranks(cluster)) == RANKS, "a new group", READY_S)
    assert not set(ranks(cluster)) & set(before)
