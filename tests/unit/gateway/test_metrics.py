"""Every metric of a model exists from the start, so that no panel of a dashboard lacks data."""

from __future__ import annotations

import re

from pomona.messages.control import Pipeline
from pomona_gateway.metrics import Metrics


def test_every_metric_of_a_planned_model_exists_before_its_first_request() -> None:
    metrics = Metrics()
    metrics.set_cache_config([Pipeline("tiny", "tiny.gguf", 1, 4, "forming")])
    page = metrics.exposition().decode()
    families = re.findall(r"^# TYPE (pomona_\w+) (\w+)$", page, re.MULTILINE)
    for name, kind in families:
        if kind == "gauge" and name.endswith("_created"):
            continue
        if name in WITHOUT_MODEL:
            continue
        sample = f"{name}_count" if kind == "histogram" else name
        assert re.search(rf'^{sample}{{[^}}]*model_name="tiny"', page, re.MULTILINE), name


WITHOUT_MODEL = {
    "pomona_request_refused_total", "pomona_key_requests_total", "pomona_key_tokens_total",
    "pomona_parameters_ignored_total", "pomona_messages_dropped_total",
}  # fmt: skip
"""Metrics whose labels are known only when they are counted."""
