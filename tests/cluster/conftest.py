"""One cluster of two stages for all tests of a module that only ask it things."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from clusters import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    """A serving cluster of two stages. At the end, Ctrl-C must leave nothing of it."""
    running = Cluster.start(tmp_path_factory.mktemp("cluster"))
    try:
        running.wait_ready()
        yield running
        assert running.stop() == 0, running.output
    finally:
        running.destroy()
