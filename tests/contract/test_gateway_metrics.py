"""``/metrics`` has vLLM's names and buckets.

The tables below were compared with vLLM's source: the buckets with ``vllm/v1/metrics/buckets.py``
at 139b1c3f17720f4bb6865309f365e6b1f1607a45, the names and kinds with what its own test expects
(``tests/entrypoints/instrumentator/test_metrics.py`` at 20ef9d82bba54f88abb1bf906f97587f5e8be959)
and its documentation (https://docs.vllm.ai/en/stable/usage/metrics/). ``num_preemptions`` and
``iteration_tokens_total`` are missing: the stage worker at a pipeline's head exports them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.models.tiny_model import say
from support.waiting import wait_until

MODEL = "org/tiny"
REPLY = "hello world"
PROMPT = "abcdefgh"

FIRST_TOKEN = (
    "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560"
)
TOKEN = "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80"
REQUEST = "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680"
COUNT = "1 2 5 10 20 50 100 200 500 1000 2000 5000 10000 20000 50000 100000 200000 500000"
"""vLLM's buckets end at the context length of its model."""
TIMES = {
    "time_to_first_token_seconds": FIRST_TOKEN,
    "inter_token_latency_seconds": TOKEN,
    "request_time_per_output_token_seconds": TOKEN,
    "e2e_request_latency_seconds": REQUEST,
    "request_queue_time_seconds": REQUEST,
    "request_inference_time_seconds": REQUEST,
    "request_prefill_time_seconds": REQUEST,
    "request_decode_time_seconds": REQUEST,
}
SIZES = {
    "request_prompt_tokens": COUNT,
    "request_generation_tokens": COUNT,
    "request_params_max_tokens": COUNT,
    "request_params_n": "1 2 5 10 20",
}
GAUGES = {
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "cache_config_info",
}
COUNTERS = {"prompt_tokens", "generation_tokens", "prefix_cache_queries", "prefix_cache_hits"}
OWN = {
    "request_refused", "request_resubmitted", "parameters_ignored", "messages_dropped",
    "key_requests", "key_tokens",
}  # fmt: skip
"""Metrics that vLLM does not have."""


class Page:
    """The parsed ``/metrics`` of a gateway."""

    def __init__(self, gateway: GatewayThread) -> None:
        text = httpx.get(f"{gateway.url}/metrics").text
        self.families: dict[str, Metric] = {x.name: x for x in text_string_to_metric_families(text)}
        self._values: dict[str, dict[frozenset[tuple[str, str]], float]] = defaultdict(dict)
        for family in self.families.values():
            for sample in family.samples:
                labels = frozenset(sample.labels.items())
                self._values[sample.name.removeprefix("pomona_")][labels] = sample.value

    def value(self, name: str, **labels: str) -> float:
        whole = frozenset({"model_name": MODEL, **labels}.items())
        return self._values[name].get(whole, 0.0)


def post(gateway: GatewayThread, **change: Any) -> httpx.Response:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 50, **change}
    return httpx.post(f"{gateway.url}/v1/completions", json=body)


def test_metrics_of_real_traffic_have_vllms_names_and_buckets(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY, cached=3, step_s=0.01)
    cluster.sequence_tokens = 250
    cluster.change()
    before = Page(gateway)
    used = [post(gateway).json()["usage"], post(gateway, max_tokens=2).json()["usage"]]
    assert post(gateway, stream=True).text.endswith("[DONE]\n\n")
    used.append(used[0])
    assert post(gateway, temperature=-1).status_code == 400
    assert post(gateway, prompt=[10**6]).status_code == 400
    wait_until(lambda: Page(gateway).value("kv_cache_usage_perc") == 0.25, "the KV use")
    # A probe of the pipeline is a sequence too.
    wait_until(lambda: Page(gateway).value("num_requests_running") == 0, "no sequence runs")
    page = Page(gateway)

    names = {x.removeprefix("pomona_") for x in page.families if not x.endswith("_created")}
    assert names == {*TIMES, *SIZES, *GAUGES, *COUNTERS, *OWN, "request_success"}
    for name, bounds in (TIMES | SIZES).items():
        family = page.families[f"pomona_{name}"]
        assert family.type == "histogram"
        found = [x.labels["le"] for x in family.samples if x.name.endswith("_bucket")]
        assert [float(x) for x in found] == [*map(float, bounds.split()), float("inf")], name
    for name in TIMES.keys() | SIZES.keys():
        first = page.families[f"pomona_{name}"].samples[0]
        assert first.labels["model_name"] == MODEL
        observed = page.value(f"{name}_count") - before.value(f"{name}_count")
        tokens = sum(x["completion_tokens"] for x in used)
        assert observed == (tokens - 3 if name == "inter_token_latency_seconds" else 3), name
    for name in GAUGES:
        assert page.families[f"pomona_{name}"].type == "gauge"
    caches = {"block_size": "1", "num_gpu_blocks": "1000", "kv_cache_size_tokens": "1000"}
    whole = {"cache_dtype": "auto", "enable_prefix_caching": "True"}
    assert page.value("cache_config_info", **caches, **whole) == 1
    assert page.value("num_requests_running") == page.value("num_requests_waiting") == 0

    gained = {
        name: page.value(f"{name}_total") - before.value(f"{name}_total") for name in COUNTERS
    }
    assert gained == {
        "prompt_tokens": 3 * len(PROMPT),
        "generation_tokens": sum(x["completion_tokens"] for x in used),
        "prefix_cache_queries": 3 * len(PROMPT),
        "prefix_cache_hits": 9,
    }
    assert page.value("request_success_total", finished_reason="stop") == 2
    assert page.value("request_success_total", finished_reason="length") == 1
    refused = {"status": "400", "code": "invalid_value"}
    assert page.value("request_refused_total", **refused) == 1
    assert page.value("request_refused_total", model_name="", **refused) == 1
    decode = page.value("request_decode_time_seconds_sum")
    inference = page.value("request_inference_time_seconds_sum")
    assert 0 < decode < inference < page.value("e2e_request_latency_seconds_sum")


def test_request_is_waiting_until_its_prefill_begins(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say(REPLY, places=(5, 4, 3, 2, 1), step_s=0.2)

    def counts_are(waiting: int, running: int) -> bool:
        page = Page(gateway)
        counts = page.value("num_requests_waiting"), page.value("num_requests_running")
        return counts == (waiting, running)

    with httpx.stream(
        "POST",
        f"{gateway.url}/v1/completions",
        json={"model": MODEL, "prompt": PROMPT, "stream": True},
    ) as answer:
        wait_until(lambda: counts_are(1, 0), "a waiting request")
        wait_until(lambda: counts_are(0, 1), "a running request")
        answer.read()
    wait_until(lambda: counts_are(0, 0), "the end")
