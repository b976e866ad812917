"""A scripted cluster and a real gateway for each module of contract tests."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from doubles.gateway_thread import GatewayThread, running_gateway
from doubles.scripted_head import ScriptedCluster, scripted_cluster
from doubles.tiny_model import TEMPLATE, say, write_tiny_model


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[ScriptedCluster]:
    """Its model is called what the module's MODEL says, has its CHAT_TEMPLATE, and answers
    its REPLY."""
    template = getattr(request.module, "CHAT_TEMPLATE", TEMPLATE)
    source = write_tiny_model(tmp_path_factory.mktemp("model"), template)
    reply = getattr(request.module, "REPLY", "A")
    with scripted_cluster(lambda _: say(reply), request.module.MODEL, str(source)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def gateway(cluster: ScriptedCluster) -> Generator[GatewayThread]:
    with running_gateway(cluster) as gateway:
        yield gateway
