"""The page and the dashboards on a real cluster: an answer outlives its worker, ten open pages
cost nothing, and every panel has data."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.chromium import Chromium, Page
from support.clusters import MODEL, Cluster, serving
from support.dashboards import panel_expressions, used_metrics
from support.prometheus import find_prometheus, prometheus
from support.waiting import wait_until

pytestmark = pytest.mark.slow

PAGES = 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with serving(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def page(cluster: Cluster, browser: Chromium) -> Generator[Page]:
    opened = browser.open(f"{cluster.url}/#/chat")
    opened.wait_for_text("Ask something")
    yield opened
    assert opened.messages() == []
    opened.close()


def test_an_answer_goes_on_when_a_worker_is_killed(page: Page, cluster: Cluster) -> None:
    tail = next(pid for name, pid in sorted(cluster.pids().items()) if name.endswith("worker.1"))
    page.evaluate("document.querySelector('#question').focus()")
    page.type("Write a very long story about a gardener and her apple trees.")
    page.press("Enter")
    page.wait("(document.querySelector('.markdown')?.innerText ?? '').length > 60", "an answer")
    os.kill(tail, signal.SIGKILL)
    page.wait_for_text("continued after a failure", 90.0)
    length = "document.querySelector('.markdown').innerText.length"
    before = page.evaluate(length)
    page.wait(f"{length} > {before} || !document.querySelector('.composer .danger')", "the rest")
    page.evaluate("document.querySelector('.composer .danger')?.click()")
    page.evaluate("location.hash = '#/cluster'")
    page.wait_for_text("epoch")
    cluster.wait_ready()


def test_the_state_is_that_of_pomona_status(cluster: Cluster) -> None:
    with cluster.client() as client:
        served = client.get("/api/pomona/v1/cluster").json()
    printed = cluster.status()
    assert set(served) == set(printed)
    for key in ("cluster", "urls", "nodes"):
        assert [x["name"] if isinstance(x, dict) else x for x in served[key]] == [
            x["name"] if isinstance(x, dict) else x for x in printed[key]
        ]
    assert served["workers"][0]["weight_bytes"] == printed["workers"][0]["weight_bytes"] > 0


def test_a_question_loads_an_unloaded_model(browser: Chromium, cluster: Cluster) -> None:
    page = browser.open(f"{cluster.url}/#/chat")
    page.wait_for_text("Ask something")
    with cluster.client() as client:
        body = {"model": MODEL}
        client.post("/v1/models/unload", json=body).raise_for_status()
        wait_until(lambda: not client.get("/readyz").json()["models"], "the model is unloaded")
    page.evaluate("document.querySelector('#question').focus()")
    page.type("Say hello.")
    page.press("Enter")
    page.wait_for_text("The model is being loaded.")
    page.wait_for_text("first token after")
    page.close()


def test_workers_state_what_they_have_computed(cluster: Cluster) -> None:
    def compute_us() -> list[int]:
        with cluster.client() as client:
            return [x["compute_us"] for x in client.get("/api/pomona/v1/cluster").json()["workers"]]

    before = compute_us()
    cluster.chat(max_tokens=16)
    wait_until(lambda: all(b > a for a, b in zip(before, compute_us(), strict=True)), "work")


def test_every_metric_of_a_dashboard_or_a_rule_is_there_from_the_start(cluster: Cluster) -> None:
    services = cluster.status()["services"]
    urls = {x["endpoints"]["metrics"] for x in services if "metrics" in x["endpoints"]}
    with cluster.client() as client:
        texts = [client.get(url).text for url in (*sorted(urls), "/metrics")]
    exposed = {
        sample.name
        for text in texts
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert used_metrics() - exposed == set()


def test_every_panel_has_data_and_no_rule_fires_when_all_is_well(
    cluster: Cluster, tmp_path: Path
) -> None:
    program = find_prometheus()
    if program is None:
        pytest.skip("no Prometheus is installed: `apt install prometheus`")
    with prometheus(program, cluster, tmp_path) as running:

        def empty_panels() -> list[str]:
            return [text for text in panel_expressions("30s") if not running.query(text)]

        def has_data() -> bool:
            cluster.chat(max_tokens=2)
            return not empty_panels()

        try:
            wait_until(has_data, "data in every panel", poll_s=0.5)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; without data: {empty_panels()}") from error
        wait_until(
            lambda: all(rule["health"] != "unknown" for rule in running.rules()),
            "every rule is evaluated",
        )
        rules = running.rules()
        assert len(rules) > 3
        assert {(rule["health"], rule["state"]) for rule in rules} == {("ok", "inactive")}


def test_ten_open_streams_leave_the_gateways_memory_flat(cluster: Cluster) -> None:
    gateway = psutil.Process(cluster.pids()["gateway"])
    url = f"{cluster.url}/api/pomona/v1/events"
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=30.0))
        lines = [stack.enter_context(client.stream("GET", url)).iter_lines() for _ in range(PAGES)]

        def read_states(count: int) -> None:
            for own in lines:
                for _ in range(count):
                    next(line for line in own if line.startswith("event: cluster"))

        read_states(3)
        before = gateway.memory_info().rss
        read_states(6)
        assert gateway.memory_info().rss - before < 4 << 20
