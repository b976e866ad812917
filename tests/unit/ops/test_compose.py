"""The files of compose, Prometheus and Grafana, checked without a container engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pomona_ops.cluster.ports import ClusterPorts
from support.dashboards import GRAFANA, PROMETHEUS, dashboards, used_metrics

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "compose" / "docker-compose.yml"
HOST = "host.docker.internal"


def _read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


SERVICES: dict[str, dict[str, Any]] = _read(COMPOSE)["services"]


def test_compose_has_a_chat_page_metrics_anddashboards() -> None:
    assert set(SERVICES) == {"open-webui", "prometheus", "grafana"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_is_pinned_and_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    tag = service["image"].rpartition(":")[2]
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), service["image"]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_port_is_open_to_this_machine_only(name: str) -> None:
    for port in SERVICES[name]["ports"]:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


def test_ports_are_unique_and_not_those_of_the_cluster() -> None:
    ports = [int(port.split(":")[1]) for s in SERVICES.values() for port in s["ports"]]
    assert len(set(ports)) == len(ports)
    assert not set(ports) & set(ClusterPorts().by_use(64).values())


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_mounted_file_exists_and_a_named_volume_is_declared(name: str) -> None:
    volumes = _read(COMPOSE)["volumes"]
    for volume in SERVICES[name]["volumes"]:
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert (COMPOSE.parent / source).resolve().exists(), source
            assert rest.endswith(":ro"), "files of the repository are mounted read-only"
        else:
            assert source in volumes


def test_open_webui_and_prometheus_reach_the_gateway_of_this_machine() -> None:
    url = f"http://{HOST}:{ClusterPorts().gateway}/v1"
    assert SERVICES["open-webui"]["environment"]["OPENAI_API_BASE_URL"] == url
    for name in ("open-webui", "prometheus"):
        assert SERVICES[name]["extra_hosts"] == [f"{HOST}:host-gateway"]


def test_open_webui_sends_no_tools_of_its_own_and_few_background_requests() -> None:
    environment = SERVICES["open-webui"]["environment"]
    metadata = json.loads(environment["DEFAULT_MODEL_METADATA"])
    assert metadata == {"capabilities": {"builtin_tools": False}}
    assert json.loads(environment["TASK_MODEL_PARAMS"])["max_tokens"] <= 256
    for task in ("FOLLOW_UP", "TAGS", "AUTOCOMPLETE"):
        assert environment[f"ENABLE_{task}_GENERATION"] == "false"


def test_prometheus_scrapes_every_service_of_a_default_cluster() -> None:
    config = _read(PROMETHEUS / "prometheus.yml")
    (job,) = config["scrape_configs"]
    ports = ClusterPorts()
    expected = {
        "gateway": [ports.gateway],
        "discovery": [ports.discovery_metrics],
        "planner": [ports.planner_metrics],
        "health_watcher": [ports.health_watcher_metrics],
        "stage_worker": [ports.stage_worker_metrics(0), ports.stage_worker_metrics(1)],
    }
    scraped = {entry["labels"]["service"]: entry["targets"] for entry in job["static_configs"]}
    assert scraped == {
        service: [f"{HOST}:{port}" for port in those] for service, those in expected.items()
    }
    mounted = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert set(config["rule_files"]) <= mounted


def test_an_alert_rule_has_a_severity_a_summary_and_an_action() -> None:
    (group,) = _read(PROMETHEUS / "rules.yml")["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names)
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["expr"]
        assert rule["for"]
        assert {"summary", "action"} <= set(rule["annotations"])


def test_reading_a_long_prompt_is_not_an_alert_of_prometheus() -> None:
    (group,) = _read(PROMETHEUS / "rules.yml")["groups"]
    (stalled,) = [rule for rule in group["rules"] if rule["alert"] == "PomonaStalled"]
    assert "pomona_stage_steps_total" in stalled["expr"]
    assert "generation_tokens" not in stalled["expr"]


def test_grafana_finds_its_data_source_and_itsdashboards() -> None:
    (source,) = _read(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = _read(GRAFANA / "provisioning" / "dashboards" / "pomona.yml")["providers"]
    folder = provider["options"]["path"]
    assert f"../ops/grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (GRAFANA / "dashboards" / Path(home).name).exists()
    for dashboard in dashboards():
        for panel in dashboard["panels"]:
            assert panel["datasource"]["uid"] == source["uid"]


def test_a_dashboard_is_complete_and_its_panels_do_not_overlap() -> None:
    for dashboard in dashboards():
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            assert panel["title"]
            assert all(target["expr"] for target in panel["targets"])
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {
                (place["x"] + column, place["y"] + row)
                for column in range(place["w"])
                for row in range(place["h"])
            }
            assert not cells & taken
            taken |= cells


def test_no_panel_is_without_data_when_all_is_well() -> None:
    """A rate needs two samples, a quantile of no requests is NaN, and errors may never happen."""
    for dashboard in dashboards():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = target["expr"]
                assert expression.endswith(" or on() vector(0)"), panel["title"]
                if "histogram_quantile" in expression or " / " in expression:
                    assert " >= 0) or" in expression, panel["title"]


def test_every_metric_in_a_panel_or_rule_exists_in_a_service() -> None:
    written = "\n".join(path.read_text() for path in (ROOT / "services").glob("*/src/**/*.py"))
    # Where a service adds one prefix to all its metrics, the code has the names without it.
    for name in sorted(used_metrics()):
        stem = re.sub(r"_(total|bucket|sum|count)$", "", name)
        assert f'"{stem}"' in written or f'"{stem.removeprefix("pomona_")}"' in written, name
