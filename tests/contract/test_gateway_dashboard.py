"""The page's files, the state of the cluster, its events, and plans: what the page is made of."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import orjson
import pytest

from pomona.auth.api_keys import KeyStore
from pomona.cluster_report import cluster_report
from pomona_gateway.dashboard.live_feed import MAX_PAGES
from pomona_gateway.http.dashboard.page import page_files
from support.doubles.gateway_thread import GatewayThread, running_gateway
from support.doubles.scripted_cluster import ScriptedCluster
from support.waiting import wait_until

MODEL = "tiny"
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MAX_PAGE_BYTES = 300_000


class Events:
    """The events of one open page."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()

    def next(self) -> tuple[str, Any]:
        """Returns the next event's name and content."""
        name = ""
        for line in self._lines:
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                return name, json.loads(line.removeprefix("data: "))
        raise EOFError

    def wait_for(self, wanted: str) -> Any:
        while True:
            name, content = self.next()
            if name == wanted:
                return content


@contextmanager
def open_page(url: str, **headers: str) -> Generator[Events]:
    timeout = httpx.Timeout(10.0)
    with (
        httpx.Client(verify=False, timeout=timeout) as client,
        client.stream("GET", f"{url}/api/pomona/v1/events", headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        yield Events(response)


def test_a_browser_gets_the_page_and_other_clients_what_they_got(gateway: GatewayThread) -> None:
    page = httpx.get(gateway.url, headers=HTML)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "accept" in page.headers["vary"]
    assert httpx.get(gateway.url).text == "Pomona is running"
    assert httpx.head(gateway.url).status_code == 200
    assert httpx.get(gateway.url, headers={"accept": "application/json"}).json()["name"] == "Pomona"


def test_the_page_loads_only_its_own_files_without_inline_code(gateway: GatewayThread) -> None:
    page = httpx.get(gateway.url, headers=HTML)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in page_files():
        file = httpx.get(f"{gateway.url}/dashboard/{name}")
        assert file.status_code == 200
        assert file.headers["content-security-policy"] == policy
        assert file.headers["x-content-type-options"] == "nosniff"
    code = page.text + "".join(
        file.content.decode() for name, file in page_files().items() if "/" not in name
    )
    assert "<style" not in code
    assert "onclick=" not in page.text
    assert "//cdn" not in code


def test_the_page_is_smaller_than_300_kilobytes() -> None:
    sizes = {name: len(file.content) for name, file in page_files().items()}
    assert sum(sizes.values()) < MAX_PAGE_BYTES, sizes
    assert "vendor/LICENCES.txt" in sizes


def test_a_file_is_sent_again_only_when_it_has_changed(gateway: GatewayThread) -> None:
    url = f"{gateway.url}/dashboard/app.js"
    first = httpx.get(url)
    assert first.headers["content-encoding"] == "gzip"
    assert httpx.get(url, headers={"if-none-match": first.headers["etag"]}).status_code == 304
    plain = httpx.get(url, headers={"accept-encoding": "identity"})
    assert plain.text == first.text


@pytest.mark.parametrize("name", ["../settings.py", "%2e%2e/settings.py", "", "vendor", "x.d.ts"])
def test_no_other_file_is_served(gateway: GatewayThread, name: str) -> None:
    assert httpx.get(f"{gateway.url}/dashboard/{name}").status_code == 404


def test_the_state_is_what_pomona_status_prints(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    answer = httpx.get(f"{gateway.url}/api/pomona/v1/cluster").json()
    expected = orjson.loads(orjson.dumps(cluster_report("pomona", [])))
    assert set(answer) == set(expected)
    assert [pipeline["model"] for pipeline in answer["pipelines"]] == [MODEL]
    assert {worker["name"] for worker in answer["workers"]} == {
        "near.stage_worker", "far.stage_worker"
    }  # fmt: skip


def test_a_page_gets_the_hour_then_states_and_changes(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    with open_page(gateway.url) as events:
        name, hello = events.next()
        assert (name, hello["role"], hello["keys_required"]) == ("hello", "administrator", False)
        name, history = events.next()
        assert name == "history"
        assert all(len(sample) == len(history["fields"]) for sample in history["samples"])
        assert events.wait_for("cluster")["pipelines"][0]["epoch"] == cluster.epoch
        assert "near.stage_worker" in events.wait_for("work")
        assert MODEL in {model["name"] for model in events.wait_for("models")}
        cluster.epoch += 1
        cluster.change()
        told = f"epoch {cluster.epoch}"
        while not any(told in change["text"] for change in events.wait_for("changes")):
            pass


def test_states_come_at_most_once_a_second_for_all_pages(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    with ExitStack() as stack:
        pages = [stack.enter_context(open_page(gateway.url)) for _ in range(10)]
        epochs: list[list[int]] = [[] for _ in pages]
        begin = time.monotonic()
        for _ in range(3):
            cluster.epoch += 1
            cluster.change()
            for events, seen in zip(pages, epochs, strict=True):
                while not seen or seen[-1] < cluster.epoch:
                    seen.append(events.wait_for("cluster")["pipelines"][0]["epoch"])
        # All pages see the same states: they are computed once, for all of them.
        assert all(seen == epochs[0] for seen in epochs)
        assert time.monotonic() - begin >= len(epochs[0]) - 2


def test_too_many_pages_are_refused_in_words(gateway: GatewayThread) -> None:
    with ExitStack() as stack:
        pages = [stack.enter_context(open_page(gateway.url)) for _ in range(MAX_PAGES)]
        for events in pages:
            events.next()
        answer = httpx.get(f"{gateway.url}/api/pomona/v1/events")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "too_many_pages"


def test_open_pages_do_not_hold_up_the_end_of_a_gateway(cluster: ScriptedCluster) -> None:
    with running_gateway(cluster, drain_deadline_s=60.0) as gateway:
        with open_page(gateway.url) as events:
            events.wait_for("cluster")
            begin = time.monotonic()
            gateway.stop()
            with pytest.raises(EOFError):
                events.wait_for("never")
        gateway.join(20.0)
        assert time.monotonic() - begin < 30.0


@pytest.fixture(scope="module")
def keyed(
    cluster: ScriptedCluster, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[GatewayThread, str, str]]:
    """A gateway with keys, and the keys of a user and of an administrator."""
    store = KeyStore(tmp_path_factory.mktemp("state"))
    user = store.create("user")
    administrator = store.create("boss", "administrator")
    with running_gateway(cluster, require_key=True, state_dir=store.path.parent) as gateway:
        yield gateway, user, administrator


def test_only_the_page_itself_needs_no_key(keyed: tuple[GatewayThread, str, str]) -> None:
    gateway, user, administrator = keyed
    assert httpx.get(gateway.url, headers=HTML).status_code == 200
    assert httpx.get(f"{gateway.url}/dashboard/app.js").status_code == 200
    assert httpx.get(gateway.url).status_code == 401
    for path in ("cluster", "events", "plan"):
        assert httpx.get(f"{gateway.url}/api/pomona/v1/{path}").status_code == 401
    for key, role in ((user, "user"), (administrator, "administrator")):
        with open_page(gateway.url, authorization=f"Bearer {key}") as events:
            _, hello = events.next()
            assert (hello["role"], hello["keys_required"]) == (role, True)


def test_only_an_administrator_pulls(keyed: tuple[GatewayThread, str, str]) -> None:
    gateway, user, administrator = keyed
    url = f"{gateway.url}/api/pomona/v1/models/pull"
    refused = httpx.post(url, json={"model": "a/b"}, headers={"x-api-key": user})
    assert refused.status_code == 403
    wrong = httpx.post(url, json={"model": "/etc"}, headers={"x-api-key": administrator})
    assert wrong.json()["error"]["code"] == "invalid_model"


def test_a_failed_pull_says_why(gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    url = f"{gateway.url}/api/pomona/v1/models/pull"
    assert httpx.post(url, json={"model": "nobody/nothing"}).status_code == 202

    with open_page(gateway.url) as events:

        def reason() -> str:
            models = events.wait_for("models")
            return next((x["pull_reason"] for x in models if x["pull"] == "failed"), "")

        wait_until(reason, "the pull has failed")


@pytest.mark.slow
def test_a_plan_is_that_of_pomona_plan(gateway: GatewayThread) -> None:
    url = f"{gateway.url}/api/pomona/v1/plan"
    catalog = httpx.get(url, timeout=60.0).json()
    assert {"name": "tb4", "kind": "Thunderbolt 4, IP"}.items() <= catalog["links"][2].items()
    body = {"model": "qwen3-32b", "clusters": ["2x:m4-pro-64gb", "m4-16gb"], "link": "tb4"}
    fitting, lacking = httpx.post(url, json=body, timeout=60.0).json()["plans"]
    assert fitting["fits"]
    assert fitting["tokens_per_second"] > 1
    assert not lacking["fits"]
    assert lacking["missing_bytes"] > 0
    unknown = httpx.post(url, json={**body, "clusters": ["3x:toaster-1gb"]}, timeout=60.0)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "invalid_plan")
    path = httpx.post(url, json={**body, "model": "/etc"}, timeout=60.0)
    assert path.json()["error"]["code"] == "invalid_model"


def test_a_choice_for_a_machine_reaches_the_planner(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    url = f"{gateway.url}/api/pomona/v1/placement"

    def choose(**body: Any) -> httpx.Response:
        return httpx.post(url, json=body)

    assert choose(machine="far", choice="exclude").status_code == 202
    assert choose(machine="near", choice="pin", start=0, stop=2).json()["state"] == "asked"
    assert choose(machine="far", choice="cap", memory_bytes=10**9).status_code == 202
    wanted = [("near", "pin"), ("far", "cap")]

    def placed() -> list[tuple[str, str]]:
        report = httpx.get(f"{gateway.url}/api/pomona/v1/cluster").json()
        return [(x["machine"], x["kind"]) for x in report["placement"]["choices"]]

    wait_until(lambda: placed() == wanted, "the planner has taken the choices", 30.0)
    wait_until(
        lambda: all(x.facts.placement is None for x in _gateway_beacons(cluster)),
        "the gateway repeats nothing that is confirmed",
        30.0,
    )
    for machine in ("near", "far"):
        choose(machine=machine, choice="free")
    wait_until(lambda: placed() == [], "the choices are taken back", 30.0)


def _gateway_beacons(cluster: ScriptedCluster) -> list[Any]:
    return list(cluster.gateways.values())[-1:]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"machine": "far", "choice": "pin", "start": 4, "stop": 4}, 400),
        ({"machine": "far", "choice": "cap", "memory_bytes": 3}, 400),
        ({"machine": "far", "choice": "explode"}, 400),
        ({"machine": "", "choice": "exclude"}, 400),
    ],
)
def test_a_choice_that_is_none_is_refused(
    gateway: GatewayThread, body: dict[str, Any], status: int
) -> None:
    assert httpx.post(f"{gateway.url}/api/pomona/v1/placement", json=body).status_code == status


def test_only_an_administrator_places_and_no_page_of_another_origin(
    keyed: tuple[GatewayThread, str, str],
) -> None:
    gateway, user, administrator = keyed
    url = f"{gateway.url}/api/pomona/v1/placement"
    body = {"machine": "far", "choice": "free"}
    assert httpx.post(url, json=body, headers={"x-api-key": user}).status_code == 403
    foreign = {"x-api-key": administrator, "origin": "https://evil.example"}
    assert httpx.post(url, json=body, headers=foreign).status_code == 403
    assert httpx.post(url, json=body, headers={"x-api-key": administrator}).status_code == 202
