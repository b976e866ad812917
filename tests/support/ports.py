"""Finds free ports for services that tests start.

The ports are below those that systems give to clients, so a free one stays free until a service
binds it. Each worker of pytest-xdist takes its ports from a range of its own.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from functools import cache

from pomona.ports import BLOCK
from pomona_ops.cluster.ports import MAX_STAGES, ClusterPorts, is_free

SINGLE = range(10000, 20000)
IN_BLOCKS = range(20000, 28000)


def free_port() -> int:
    """Returns a free port that this process has not returned before."""
    return next(port for port in _single() if is_free(port))


def free_ports() -> ClusterPorts:
    """Returns a free block of ports for a cluster."""
    candidates = _of_this_worker(IN_BLOCKS)
    while True:
        ports = ClusterPorts(random.choice(candidates[:-BLOCK]))
        if all(is_free(port) for port in ports.by_use(MAX_STAGES).values()):
            return ports


@cache
def _single() -> Iterator[int]:
    candidates = _of_this_worker(SINGLE)
    start = random.randrange(len(candidates))
    return itertools.chain(candidates[start:], candidates[:start])


def _of_this_worker(ports: range) -> range:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    width = len(ports) // workers
    return ports[worker * width : (worker + 1) * width]
