"""Ports for services that tests start.

They lie below those that systems give to clients, so one that is free stays free until it is
taken. Tests that run beside these in another worker of pytest-xdist draw from another range.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from functools import cache

from pomona_ops.cluster.ports import BLOCK, MAX_STAGES, ClusterPorts, is_free

SINGLE = range(10000, 20000)
IN_BLOCKS = range(20000, 30000)


def free_port() -> int:
    """A port that nobody uses, and that this process has not been given before."""
    return next(port for port in _single() if is_free(port))


def free_ports() -> ClusterPorts:
    """A block of ports that nobody uses."""
    mine = _of_this_worker(IN_BLOCKS)
    while True:
        ports = ClusterPorts(random.choice(mine[:-BLOCK]))
        if all(is_free(port) for port in ports.by_use(MAX_STAGES).values()):
            return ports


@cache
def _single() -> Iterator[int]:
    mine = _of_this_worker(SINGLE)
    begin = random.randrange(len(mine))
    return itertools.chain(mine[begin:], mine[:begin])


def _of_this_worker(ports: range) -> range:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    width = len(ports) // workers
    return ports[worker * width : (worker + 1) * width]
