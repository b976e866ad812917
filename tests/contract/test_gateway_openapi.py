"""Schemathesis finds no difference between the OpenAPI document and the gateway.

All of its checks are on. One requires that every request valid by the schemas is
accepted, so the model supports everything: reasoning, tool calls, and prompts of any length.
``fit`` adapts generated requests to what no schema can express: the size of the vocabulary, the
stored response, and the names of the request's own tools.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance
from schemathesis.config import SchemathesisConfig
from schemathesis.generation.meta import TestPhase

from pomona_gateway.http.openapi import DOCUMENT
from support.doubles.gateway_thread import GatewayThread
from support.doubles.scripted_cluster import ScriptedCluster
from support.models.tiny_model import TEMPLATE, say, tiny_tokenizer

MODEL = "tiny"
CHAT_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}{{ reasoning_effort or '' }}"
    + TEMPLATE
    + "{% if enable_thinking %}<think>\n{% endif %}"
)
CONTEXT_LENGTH = 2**31 - 1
EXAMPLES = 10
"""Random examples of each operation, beside those that cover its schema systematically."""
ALL_OF_FIRST, ONE_IN = 200, 20
"""The valid cases of a schema's coverage that are sent: all of the first, then one in twenty. The
thousands that a union of unions gives differ in one field of one part each."""
BEYOND_SCHEMAS = {
    "invalid_model",
    "content_not_supported",
    "parameter_not_supported",
    "tool_not_found",
    "embeddings_not_supported",
    "invalid_layers",
    "invalid_memory",
    "min_tokens_too_large",
    "structured_output_not_supported",
}
"""Codes of a 400 for requests that the document allows. JSON Schema cannot express that this
model gives no embeddings and reads no images, that one number must not exceed another, which
tools there are, or which schemas and regular expressions a grammar supports."""
LEFT_OUT = {
    ("get", "/api/pomona/v1/events"),
    ("get", "/api/pomona/v1/plan"),
    ("post", "/api/pomona/v1/plan"),
    ("post", "/api/pomona/v1/models/pull"),
    ("get", "/api/pomona/v1/nodes"),
    ("post", "/api/pomona/v1/nodes/invite"),
    ("post", "/api/pomona/v1/nodes/approve"),
    ("post", "/api/pomona/v1/nodes/revoke"),
    ("get", "/api/pomona/v1/logs"),
}
"""A stream without an end, and what starts a process for each request; see
test_gateway_dashboard."""
REFUSED = ["400", "404", "405", "413"]
"""Statuses for invalid requests; a list that is too long may also make the body too large."""

api = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=SchemathesisConfig.from_dict(
        {"checks": {"negative_data_rejection": {"expected-statuses": REFUSED}}}
    ),
)


@pytest.fixture(scope="module")
def stored_id(gateway: GatewayThread, cluster: ScriptedCluster) -> str:
    """The id of a stored response. From here on the head reports logprobs."""
    cluster.head.script = lambda _: say("A", logprobs=logprobs_of)
    answer = httpx.post(f"{gateway.url}/v1/responses", json={"model": MODEL, "input": "x"})
    return str(answer.json()["id"])


def logprobs_of(token: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    return -0.5, tuple((65 + n, -0.5 - n) for n in range(20))


def fit(body: dict[str, Any], stored_id: str) -> None:
    """Adapts a valid request to the existing model, tools and stored response."""
    size = tiny_tokenizer().size
    body["model"] = MODEL
    if body.get("previous_response_id") is not None:
        body["previous_response_id"] = stored_id
    if body.get("logit_bias"):
        body["logit_bias"] = {str(int(k) % size): x for k, x in body["logit_bias"].items()}
    for name in ("prompt", "stop_token_ids"):
        if isinstance(body.get(name), list):
            body[name] = _existing(body[name], size)
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and body.get("tools"):
        named = choice.get("function") or choice
        names = [(tool.get("function") or tool).get("name") for tool in body["tools"]]
        if "name" in named and any(names):
            named["name"] = next(filter(None, names))


def _existing(ids: list[Any], size: int) -> list[Any]:
    return [
        _existing(x, size) if isinstance(x, list) else x if isinstance(x, str) else int(x) % size
        for x in ids
    ]


def codes(client: httpx.Client, gateway: GatewayThread) -> Counter[str]:
    """Returns the number of refused requests by code, which some dialects' errors do not have."""
    text = client.get(f"{gateway.url}/metrics").text
    own = "\n".join(x for x in text.splitlines() if x.startswith("pomona_request_refused_total"))
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(own):
        for sample in family.samples:
            found[sample.labels["code"]] += int(sample.value)
    return found


@pytest.fixture(scope="module")
def client() -> Generator[httpx.Client]:
    """A client for thousands of requests, without loading certificates for each."""
    with httpx.Client(verify=False) as found:
        yield found


_seen: Counter[str] = Counter()


def is_drawn(case: schemathesis.Case[Any]) -> bool:
    """Returns whether a valid case is among those that are sent."""
    assert case.meta is not None
    if case.meta.phase.name is not TestPhase.COVERAGE:
        return True
    name = f"{case.method} {case.path}"
    _seen[name] += 1
    return _seen[name] <= ALL_OF_FIRST or _seen[name] % ONE_IN == 0


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def check_operation(
    gateway: GatewayThread, client: httpx.Client, stored_id: str, case: schemathesis.Case[Any]
) -> None:
    valid = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if valid and not is_drawn(case):
        return
    if valid and isinstance(case.body, dict) and case.path != "/v1/models/load":
        fit(case.body, stored_id)
    answer = case.call(base_url=gateway.url, timeout=10)
    beyond = False
    if valid and answer.status_code == 400:
        before = codes(client, gateway)
        case.call(base_url=gateway.url, timeout=10)
        beyond = set(codes(client, gateway) - before) <= BEYOND_SCHEMAS
    case.validate_response(answer, excluded_checks=[positive_data_acceptance] if beyond else None)


def _test(method: str, path: str) -> Callable[..., None]:
    operation = api.include(method=method.upper(), path=path)
    parametrize = cast(
        "Callable[[], Callable[[Callable[..., None]], Callable[..., None]]]", operation.parametrize
    )
    return parametrize()(check_operation)


for _path, _methods in DOCUMENT["paths"].items():
    for _method in _methods:
        if (_method, _path) in LEFT_OUT:
            continue
        # pytest would give the same id to all tests of one function.
        _name = f"{_method}{_path}".replace("/", "_").replace("{", "").replace("}", "")
        globals()[f"test_schemathesis_finds_nothing_in_{_name}"] = _test(_method, _path)


def test_405_lists_all_methods_of_the_path(gateway: GatewayThread) -> None:
    for path, methods in DOCUMENT["paths"].items():
        answer = httpx.request("PATCH", gateway.url + path.replace("{", "").replace("}", ""))
        assert answer.status_code == 405
        allowed = {x.strip() for x in answer.headers["allow"].split(",")}
        assert {x.upper() for x in methods} <= allowed, path


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_number_without_a_fraction_is_an_integer(gateway: GatewayThread, path: str) -> None:
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
