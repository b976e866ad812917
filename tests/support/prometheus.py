"""A real Prometheus with this project's configuration, against a running cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from support.clusters import Cluster
from support.dashboards import PROMETHEUS
from support.ports import free_port
from support.waiting import wait_until

STOP_S = 30.0


class Prometheus:
    """A running Prometheus at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Returns the series of an instant query. Raises httpx.HTTPError if it is not valid."""
        answer = httpx.get(
            f"{self.url}/api/v1/query", params={"query": expression}, trust_env=False
        ).raise_for_status()
        return answer.json()["data"]["result"]

    def rules(self) -> list[dict[str, Any]]:
        """Returns the alerting rules with their states."""
        answer = httpx.get(f"{self.url}/api/v1/rules", trust_env=False).raise_for_status()
        return [rule for group in answer.json()["data"]["groups"] for rule in group["rules"]]


def find_prometheus() -> str | None:
    return shutil.which("prometheus")


@contextmanager
def prometheus(program: str, cluster: Cluster, folder: Path) -> Generator[Prometheus]:
    """Runs Prometheus with ``ops/prometheus`` and the targets of a cluster."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] |= {
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "evaluation_interval": "1s",
    }
    config["rule_files"] = [str(PROMETHEUS / "rules.yml")]
    (job,) = config["scrape_configs"]
    addresses = _addresses(cluster)
    for group in job["static_configs"]:
        group["targets"] = addresses.pop(group["labels"]["service"])
    assert not addresses, "ops/prometheus/prometheus.yml has a target for every service"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    running = Prometheus(f"http://{address}")
    try:
        wait_until(lambda: _is_ready(running), "Prometheus is ready")
        yield running
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()


def _addresses(cluster: Cluster) -> dict[str, list[str]]:
    """Returns the addresses of the metrics, by service."""
    found = {"gateway": [f"127.0.0.1:{cluster.ports.gateway}"]}
    for service in cluster.status()["services"]:
        if "metrics" in service["endpoints"]:
            address = service["endpoints"]["metrics"].removeprefix("http://").split("/")[0]
            found.setdefault(service["service"], []).append(address)
    return found


def _is_ready(running: Prometheus) -> bool:
    try:
        return httpx.get(f"{running.url}/-/ready", trust_env=False).is_success
    except httpx.HTTPError:
        return False
