"""The OpenAPI document says what the gateway does: schemathesis finds nothing in it.

All of its checks are on but one, positive_data_acceptance: that whatever the schemas allow is
accepted. What JSON Schema cannot say of a request is a 400 that names the parameter: that the
model, the response and the token ids exist; parameters that need or exclude each other; what a
schema for replies may ask for; what the model's own chat template makes of the messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from doubles.gateway_thread import GatewayThread
from doubles.scripted_head import ScriptedCluster
from doubles.tiny_model import say
from pomona_gateway.api.openapi import DOCUMENT

MODEL = "tiny"
EXAMPLES = 10
"""Of each operation, beside those that cover its schema place by place."""
CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            "positive_data_acceptance": {"enabled": False},
            # A list that is too long may also be a body that is too large.
            "negative_data_rejection": {"expected-statuses": ["4xx"]},
        }
    }
)

api = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)


def chances(token: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    return -0.5, tuple((65 + n, -0.5 - n) for n in range(20))


@cast("Callable[[Callable[..., None]], Callable[..., None]]", api.parametrize())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_schemathesis_finds_nothing(
    gateway: GatewayThread, cluster: ScriptedCluster, case: schemathesis.Case[Any]
) -> None:
    cluster.head.script = lambda _: say("A", chances=chances)
    valid = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    # Nearly all names are of no model; requests that are valid are for the one there is.
    if valid and isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = MODEL
    case.call_and_validate(base_url=gateway.url, timeout=10)


def test_every_path_tells_all_its_methods(gateway: GatewayThread) -> None:
    for path, methods in DOCUMENT["paths"].items():
        answer = httpx.request("PATCH", gateway.url + path.replace("{", "").replace("}", ""))
        assert answer.status_code == 405
        told = {x.strip() for x in answer.headers["allow"].split(",")}
        assert {x.upper() for x in methods} <= told, path


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_number_without_a_fraction_is_an_integer(gateway: GatewayThread, path: str) -> None:
    body = {
        "model": MODEL, "messages": [{"role": "user", "content": "x"}], "n": 2.0, "seed": 1.0,
        "max_tokens": 3.0, "temperature": 1.0,
    }  # fmt: skip
    if path == "/v1/completions":
        body |= {"prompt": [[65.0, 66], [67.0]]}
        del body["messages"]
    assert httpx.post(gateway.url + path, json=body).status_code == 200
    for wrong in (1.5, True, "1", 1e300, 0.0):
        answer = httpx.post(gateway.url + path, json={**body, "n": wrong})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "n"
