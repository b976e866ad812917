"""Hostile input from one key leaves the streams of another exact, and all memory where it was.

``make hostile SECONDS=1800`` runs it for that time.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from support.chaos.hostile_client import ExactStream, HostileClient
from support.clusters import Cluster, run_pomona, serving
from support.waiting import wait_until

SECONDS = float(os.environ.get("HOSTILE_SECONDS", "1800"))
SEED = int(os.environ.get("HOSTILE_SEED", "0"))
WARM_UP_S = 30.0
"""Hostile input before memory is first measured: processes of models and caches exist then."""
SETTLE_S = 60.0
GROWTH_BYTES = 64 << 20
"""Growth of a service's memory that counts as none, with its children."""
PREFIX_BYTES = 256 << 20
"""The same for a stage worker, which keeps prefixes in its cache until memory is wanted."""
MAX_GAP_S = 1.0
THREADS = 4
STREAMS = 4
VARIABLES = {
    "POMONA_GATEWAY_REQUIRE_KEY": "true",
    "POMONA_GATEWAY_MAX_BODY_BYTES": str(64 << 20),
}


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 600)
def test_streams_of_a_key_are_exact_beside_another_keys_hostile_input(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    good, bad = (
        run_pomona("keys", "create", name, POMONA_STATE_DIR=state).stdout.split()[-1]
        for name in ("good", "bad")
    )
    with serving(tmp_path, stages=2, variables=VARIABLES) as cluster:
        streams = [
            ExactStream(cluster.url, good, f"Count from {n} to 20.", 48) for n in range(STREAMS)
        ]
        hostile = HostileClient(cluster.url, bad, SEED)
        for stream in streams:
            stream.start()
        hostile.start(THREADS)
        time.sleep(min(WARM_UP_S, SECONDS / 2))
        before = _memory(cluster)
        time.sleep(max(SECONDS - WARM_UP_S, 0))
        hostile.stop()
        for stream in streams:
            stream.stop()
        after: dict[str, int] = {}

        def has_settled() -> bool:
            after.update(_memory(cluster))
            return all(after[name] <= before[name] + _growth(name) for name in before)

        print(f"statuses: {sorted(hostile.statuses.items())}")
        print(f"streams: {[(x.count, round(x.gap_s, 3), x.wrong[:3]) for x in streams]}")
        try:
            wait_until(has_settled, "memory is back", SETTLE_S)
        finally:
            for name in before:
                print(f"{name}: {before[name] >> 20} MB, after {after[name] >> 20} MB")
        assert not any(stream.wrong for stream in streams)
        assert all(stream.count for stream in streams)
        assert max(stream.gap_s for stream in streams) <= MAX_GAP_S


def _growth(name: str) -> int:
    return PREFIX_BYTES if name.startswith("stage_worker") else GROWTH_BYTES


def _memory(cluster: Cluster) -> dict[str, int]:
    """Returns the resident bytes of each service with its children."""
    sizes: dict[str, int] = {}
    for name, pid in cluster.pids().items():
        process = psutil.Process(pid)
        sizes[name] = process.memory_info().rss
        for child in process.children(recursive=True):
            try:
                sizes[name] += child.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    return sizes
