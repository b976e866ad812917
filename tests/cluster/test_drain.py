"""``pomona drain`` in a running cluster: answers go on elsewhere, and the decision stays."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import psutil
import pytest

from support.chaos.streams import Stream, ended, started
from support.clusters import Cluster, run_pomona, serving
from support.waiting import wait_until

TOKENS = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with serving(tmp_path_factory.mktemp("drained")) as running:
        yield running


def state(cluster: Cluster) -> dict[str, Any]:
    """Returns the state of the cluster as the gateway serves it."""
    with cluster.client() as client:
        return client.get("/api/pomona/v1/cluster").raise_for_status().json()


def drained(cluster: Cluster) -> list[str]:
    return [x["node"] for x in state(cluster)["drains"] if x["state"] in ("draining", "drained")]


def holders(cluster: Cluster) -> list[str]:
    """Returns the workers of the pipeline's stages; none while there is no plan."""
    pipelines = state(cluster)["pipelines"]
    return [stage["worker"] for x in pipelines for stage in x["stages"]]


def planner(cluster: Cluster) -> int:
    """Returns the planner's process id; 0 while there is none."""
    services = state(cluster)["services"]
    return next((x["pid"] for x in services if x["service"] == "planner"), 0)


@pytest.mark.timeout(400)
def test_a_stream_goes_on_with_the_same_text_while_each_worker_is_drained(
    cluster: Cluster,
) -> None:
    port = ("--port", str(cluster.ports.first))
    [undisturbed] = ended(started([Stream(cluster.url, 0, TOKENS)]))
    tail = holders(cluster)[-1]
    streams = started([Stream(cluster.url, 0, TOKENS)], chunks=3)
    done = run_pomona("drain", tail, "--json", *port)
    assert done.returncode == 0, done.stderr
    decision = json.loads(done.stdout)
    assert (decision["node"], decision["state"]) == (tail, "drained")
    [other] = holders(cluster)
    assert other != tail
    assert ended(streams) == [undisturbed]

    refused = run_pomona("drain", other, *port)
    assert refused.returncode == 1
    assert "no answers are possible until it is back" in refused.stderr
    assert drained(cluster) == [tail]

    # The planner is started again and still plans without the worker.
    before = planner(cluster)
    psutil.Process(before).kill()

    def is_back() -> bool:
        return planner(cluster) not in (0, before) and drained(cluster) == [tail]

    wait_until(is_back, "the planner is back", 60.0)
    wait_until(lambda: holders(cluster) == [other], "the plan is as before", 60.0)

    assert run_pomona("undrain", tail, *port).returncode == 0
    wait_until(lambda: tail in holders(cluster), "the worker is taken back", 120.0)
    assert drained(cluster) == []
    wait_until(cluster.is_ready, "it serves again", 90.0)


def test_an_unknown_node_is_refused(cluster: Cluster) -> None:
    done = run_pomona("drain", "nobody", "--port", str(cluster.ports.first))
    assert done.returncode == 1
    assert "there is no node 'nobody'" in done.stderr
