"""One cluster for all clients: the tests here only ask it things.

Some run in an environment of their own, which has nothing of Pomona's; they are told by
``POMONA_CLIENTS_URL`` where the cluster answers, and by ``POMONA_DOUBLE_URL`` where the model
does that stands in for what SmolLM2 is too small for.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import httpx

    from support.clusters import Cluster

URL = "POMONA_CLIENTS_URL"
DOUBLE_URL = "POMONA_DOUBLE_URL"


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    """A serving cluster of two stages."""
    from support.clusters import serving

    with serving(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def http(cluster: Cluster) -> Generator[httpx.Client]:
    with cluster.client() as client:
        yield client


@pytest.fixture(scope="package")
def url(request: pytest.FixtureRequest) -> str:
    """Where the cluster answers."""
    return os.environ.get(URL) or request.getfixturevalue("cluster").url


@pytest.fixture(scope="package")
def able(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A gateway before a scripted model that does what it is asked for."""
    from support.doubles.able_model import able_model

    with able_model(tmp_path_factory.mktemp("able")) as running:
        yield running


@pytest.fixture(scope="package")
def double_url(request: pytest.FixtureRequest) -> str:
    """Where the scripted model answers, as ``double``."""
    return os.environ.get(DOUBLE_URL) or request.getfixturevalue("able")
