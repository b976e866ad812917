"""One cluster of two stages for all clients: they only ask it things."""

from __future__ import annotations

from collections.abc import Generator

import httpx
import pytest

from clusters import Cluster


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    """A serving cluster. At the end, Ctrl-C must leave nothing of it."""
    running = Cluster.start(tmp_path_factory.mktemp("cluster"))
    try:
        running.wait_ready()
        yield running
        assert running.stop() == 0, running.output
    finally:
        running.destroy()


@pytest.fixture
def http(cluster: Cluster) -> Generator[httpx.Client]:
    with cluster.client() as client:
        yield client
