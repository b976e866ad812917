"""One cluster for the tests of all clients, which only send it requests.

Tests in an environment of their own, without Pomona's packages, get the URL of the cluster from
``POMONA_CLIENTS_URL``. ``POMONA_DOUBLE_URL`` is the URL of a scripted model, for requests that
SmolLM2 is too small for.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from support.certificates import read_once

if TYPE_CHECKING:
    import httpx

    from support.clusters import Cluster

URL = "POMONA_CLIENTS_URL"
DOUBLE_URL = "POMONA_DOUBLE_URL"

read_once()


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
    """URL of the cluster."""
    return os.environ.get(URL) or request.getfixturevalue("cluster").url


@pytest.fixture(scope="package")
def able_model_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """URL of a gateway with a scripted model that calls tools and follows instructions."""
    from support.doubles.able_model import able_model

    with able_model(tmp_path_factory.mktemp("able_model")) as url:
        yield url


@pytest.fixture(scope="package")
def double_url(request: pytest.FixtureRequest) -> str:
    """URL of the scripted model, whose name is ``double``."""
    return os.environ.get(DOUBLE_URL) or request.getfixturevalue("able_model_url")
