"""One cluster of two stages for all tests of a module that only send it requests."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from support.clusters import Cluster, serving


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    """A serving cluster of two stages."""
    with serving(tmp_path_factory.mktemp("cluster")) as running:
        yield running
