"""Fixtures: a scripted cluster and a real gateway for each module of contract tests."""

from __future__ import annotations

from collections.abc import Generator

import openai
import pytest

from support.doubles.gateway_thread import GatewayThread, running_gateway
from support.doubles.scripted_cluster import ScriptedCluster
from support.models.tiny_model import CONTEXT_LENGTH, TEMPLATE, say, write_tiny_model


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[ScriptedCluster]:
    """A cluster configured by constants of the test module: MODEL (name), CHAT_TEMPLATE,
    CONTEXT_LENGTH, CUT_BY (regular expression of the tokenizer) and REPLY."""
    module = request.module
    template = getattr(module, "CHAT_TEMPLATE", TEMPLATE)
    length = getattr(module, "CONTEXT_LENGTH", CONTEXT_LENGTH)
    cut_by = getattr(module, "CUT_BY", "")
    source = write_tiny_model(tmp_path_factory.mktemp("model"), template, length, cut_by)
    reply = getattr(module, "REPLY", "A")
    with ScriptedCluster.running(lambda _: say(reply), module.MODEL, str(source)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def gateway(cluster: ScriptedCluster) -> Generator[GatewayThread]:
    with running_gateway(cluster) as gateway:
        yield gateway


@pytest.fixture
def fresh(request: pytest.FixtureRequest, cluster: ScriptedCluster) -> None:
    """Resets the head's script to the module's REPLY, and its recorded messages."""
    reply = getattr(request.module, "REPLY", "A")
    cluster.head.script = lambda _: say(reply)
    cluster.head.submitted.clear()
    cluster.head.cancelled.clear()


@pytest.fixture
def client(gateway: GatewayThread, fresh: None) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client
