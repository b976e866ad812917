"""kill -9 of any one service under ``pomona up``: it comes back, and people are told."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from support.clusters import ANSWER, Cluster, serving
from support.waiting import wait_until

BACK_S = 60.0
TOLD_S = 60.0
SERVICES = [
    "stage_worker.1",
    "stage_worker.0",
    "gateway",
    "planner",
    "discovery",
    "health_watcher",
]


@dataclass
class Webhook:
    """What a local server that answers as Slack does was posted."""

    url: str
    texts: list[str] = field(default_factory=list[str])

    def told_of(self, name: str, since: int) -> list[str]:
        return [text for text in self.texts[since:] if name in text]


@pytest.fixture(scope="module")
def webhook() -> Generator[Webhook]:
    class Slack(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.texts.append(json.dumps(json.loads(body), ensure_ascii=False))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slack) as server:
        received = Webhook(f"http://127.0.0.1:{server.server_port}/services/T0/B0/x")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield received
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def cluster(webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    variables = {"POMONA_HEALTH_WATCHER_SLACK_WEBHOOK_URL": webhook.url}
    with serving(tmp_path_factory.mktemp("chaos"), variables=variables) as running:
        yield running


@pytest.mark.parametrize("name", SERVICES)
def test_a_killed_service_comes_back_and_the_cluster_serves_again(
    cluster: Cluster, webhook: Webhook, name: str
) -> None:
    wait_until(lambda: name in cluster.pids(), f"a beacon of {name}", BACK_S)
    pid = cluster.pids()[name]
    before = len(webhook.texts)
    os.kill(pid, signal.SIGKILL)

    wait_until(lambda: cluster.pids().get(name, pid) != pid, f"{name} came back", BACK_S)
    wait_until(lambda: _answers(cluster), f"an answer after the death of {name}", BACK_S)
    wait_until(lambda: cluster.status()["state"] == "serving", "status says serving", BACK_S)
    assert f"{name:<15} was killed by SIGKILL" in cluster.output

    def told() -> bool:
        texts = webhook.told_of(name, before)
        return len(texts) >= 2 and any("esolved" in text for text in texts)

    wait_until(told, f"alert and resolution for {name}; posted: {webhook.texts[before:]}", TOLD_S)


def _answers(cluster: Cluster) -> bool:
    try:
        return cluster.ask() == ANSWER
    except httpx.HTTPError:
        return False
