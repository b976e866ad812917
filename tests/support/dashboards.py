"""Grafana's dashboards and Prometheus' rules of this project."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "ops" / "prometheus"
GRAFANA = ROOT / "ops" / "grafana"
METRIC = re.compile(r"pomona_[a-z0-9_]+")


def dashboards() -> list[dict[str, Any]]:
    """Returns every dashboard."""
    found = sorted((GRAFANA / "dashboards").glob("*.json"))
    assert found
    return [json.loads(path.read_text()) for path in found]


def used_metrics() -> set[str]:
    """Returns the names of the metrics in all panels and alert rules."""
    (group,) = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    expressions = [rule["expr"] for rule in group["rules"]]
    for dashboard in dashboards():
        expressions += [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    return {name for text in expressions for name in METRIC.findall(text)}


def panel_expressions(rate_interval: str) -> list[str]:
    """Returns the query of every panel for all models, without the zero that stands in for
    missing series.

    Args:
        rate_interval: value of Grafana's ``$__rate_interval``.
    """
    texts = [t["expr"] for board in dashboards() for x in board["panels"] for t in x["targets"]]
    return [
        text.replace("$model", ".*")
        .replace("$__rate_interval", rate_interval)
        .removesuffix(" or on() vector(0)")
        for text in texts
    ]
