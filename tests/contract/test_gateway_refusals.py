"""Invalid requests are refused quickly with a clear error, and serving continues."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import openai
import psutil
import pytest

from pomona.messages.limits import MAX_STOP_IDS
from pomona.messages.pipeline import Submit
from pomona_gateway.text.prompter import DEADLINE_S
from support.doubles.gateway_thread import GatewayThread, running_gateway
from support.doubles.scripted_cluster import ScriptedCluster
from support.models.tiny_model import TEMPLATE

MODEL = "org/tiny"
USER = [{"role": "user", "content": "hi"}]
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
UNSUPPORTED = "structured_output_not_supported"
SCHEMA_AT = "response_format.json_schema.schema"
CHAT_TEMPLATE = (
    "{% for i in range(99999 if messages[0].content == 'hang' else 0) %}"
    "{% for j in range(99999) %}{% endfor %}{% endfor %}" + TEMPLATE
)
CONTEXT_LENGTH = 4096
CUT_BY = "(x+x+)+y"
HANG = {"role": "user", "content": "hang"}
SLOW = {"role": "user", "content": f"{'x' * 22} " * 1000}
"""The regular expression library needs almost its maximum number of steps for each word."""
OK: dict[str, Any] = {"model": MODEL, "messages": USER}


@pytest.fixture
def http(gateway: GatewayThread) -> Generator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=10) as client:
        yield client
        assert client.post("/v1/chat/completions", json=OK).status_code == 200


def json_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def assert_refused(answer: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert error["type"]
    assert error["message"]
    return str(error["message"])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_body"),
        (b"  \n", "empty_body"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[]", "invalid_value"),
        (b"null", "invalid_value"),
        (b'"text"', "invalid_value"),
    ],
)
def test_body_that_is_not_a_json_object_is_400(http: httpx.Client, body: bytes, code: str) -> None:
    assert_refused(http.post("/v1/chat/completions", content=body), 400, code)


def test_body_in_another_encoding_is_415(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", content=b"x", headers={"content-encoding": "br"})
    assert "'br'" in assert_refused(answer, 415, "unsupported_content_encoding")


def test_zip_bomb_is_413_and_is_not_inflated(http: httpx.Client) -> None:
    bomb = gzip.compress(bytes(512 << 20))
    process = psutil.Process()
    before = process.memory_info().rss
    answer = http.post("/v1/chat/completions", content=bomb, headers={"content-encoding": "gzip"})
    assert_refused(answer, 413, "body_too_large")
    assert process.memory_info().rss - before < MAX_GROWTH_BYTES


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"colour": 1}, "colour"),
        ({"stream_options": {"x": 1}, "stream": True}, "stream_options.x"),
        ({"messages": [{"role": "user", "content": "x", "size": 1}]}, "messages[0].size"),
    ],
)
def test_unknown_parameter_is_named_or_refused_by_the_setting(
    http: httpx.Client, cluster: ScriptedCluster, change: dict[str, Any], param: str
) -> None:
    answer = http.post("/v1/chat/completions", json={**OK, **change})
    assert answer.status_code == 200
    assert answer.headers["x-pomona-ignored"] == param
    with running_gateway(cluster, unknown_parameters="refuse") as gateway:
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json={**OK, **change})
        assert_refused(answer, 400, "unknown_parameter", param)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"temperature": "hot"}, "invalid_value", "temperature"),
        ({"temperature": "0.5"}, "invalid_value", "temperature"),
        ({"temperature": True}, "invalid_value", "temperature"),
        ({"temperature": -1}, "invalid_value", "temperature"),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 1.5}, "invalid_value", "max_tokens"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": 1000}, "invalid_value", "n"),
        ({"stop": ["x"] * 99}, "invalid_value", "stop"),
        ({"stop": 5}, "invalid_value", "stop"),
        ({"seed": "7"}, "invalid_value", "seed"),
        ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias.x"),
        ({"logit_bias": {"999999": 1}}, "invalid_value", "logit_bias"),
        ({"logit_bias": {"1": 101}}, "invalid_value", "logit_bias.1"),
        ({"stop_token_ids": [-1]}, "invalid_value", "stop_token_ids[0]"),
        ({"stop_token_ids": [999_999]}, "invalid_value", "stop_token_ids"),
        ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "invalid_value", "response_format"),
        ({"structured_outputs": {}}, "invalid_value", "structured_outputs"),
        (
            {"structured_outputs": {"regex": "a", "choice": ["b"]}},
            "invalid_value",
            "structured_outputs",
        ),
        ({"structured_outputs": {"regex": "("}}, UNSUPPORTED, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a(?=b)"}}, UNSUPPORTED, "structured_outputs.regex"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "invalid_value",
            "structured_outputs",
        ),
        ({"response_format": json_format({"type": "strin"})}, UNSUPPORTED, SCHEMA_AT),
        ({"response_format": json_format({"enum": ["x" * 70_000]})}, UNSUPPORTED, SCHEMA_AT),
        ({"response_format": json_format(nested(70))}, UNSUPPORTED, SCHEMA_AT),
        (
            {"response_format": json_format({}), "ignore_eos": True},
            "invalid_value",
            "response_format",
        ),
        ({"response_format": json_format({}), "min_tokens": 3}, "invalid_value", "response_format"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens_too_large", "min_tokens"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        (
            {"chat_template_kwargs": {"messages": []}},
            "invalid_value",
            "chat_template_kwargs.messages",
        ),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": "hi"}, "invalid_value", "messages"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content"),
        ({"messages": [{"role": "pope", "content": "x"}]}, "invalid_value", "messages[0]"),
        ({"messages": [{"content": "x"}]}, "invalid_value", "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_value", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "content_not_supported",
            "messages[0].content[0]",
        ),
    ],
)  # fmt: skip
def test_invalid_parameter_is_400_that_names_it(
    http: httpx.Client, change: dict[str, Any], code: str, param: str
) -> None:
    assert_refused(http.post("/v1/chat/completions", json={**OK, **change}), 400, code, param)


def test_missing_parameter_is_named(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": USER})
    assert_refused(answer, 400, "missing_required_parameter", "model")


def test_unknown_model_is_404_that_lists_the_models(gateway: GatewayThread) -> None:
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.NotFoundError, match=MODEL) as caught,
    ):
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"


def test_prompt_longer_than_the_context_is_400_with_both_lengths(http: httpx.Client) -> None:
    body = {**OK, "messages": [{"role": "user", "content": "z" * 4600}]}
    answer = http.post("/v1/chat/completions", json=body)
    message = assert_refused(answer, 400, "context_length_exceeded", "messages")
    assert str(CONTEXT_LENGTH) in message
    assert "4618" in message


ZEROS = b"0," * (15 << 20)


@pytest.fixture(scope="module")
def reading_s() -> float:
    """CPU seconds in which ``json`` parses 30 MB: the unit of time that suits this machine."""
    started = time.process_time()
    json.loads(b"[%b0]" % ZEROS)
    return time.process_time() - started


@pytest.mark.parametrize("chunked", [False, True])
def test_body_of_100_megabytes_is_413_before_it_is_read(
    http: httpx.Client, chunked: bool, reading_s: float
) -> None:
    size = 100 << 20
    part = bytes(1 << 20)

    def parts() -> Iterator[bytes]:
        for _ in range(size // len(part)):
            yield part

    headers = {} if chunked else {"content-length": str(size)}
    started = time.process_time()
    answer = http.post("/v1/chat/completions", content=parts(), headers=headers)
    assert time.process_time() - started < 2 * reading_s
    assert_refused(answer, 413, "body_too_large")


HOSTILE: dict[str, tuple[str, bytes]] = {
    "messages": ("/v1/chat/completions", b'{"model":"x","messages":[%b0]}' % ZEROS),
    "stop": ("/v1/chat/completions", b'{"model":"x","messages":[],"stop":[%b0]}' % ZEROS),
    "prompt": ("/v1/completions", b'{"model":"x","prompt":[%b""]}' % ZEROS),
    "rows": ("/v1/completions", b'{"model":"x","prompt":[%b0]}' % (b'[""],' * 300_000)),
    "blocks": ("/v1/messages", b'{"model":"x","messages":[%b0]}' % (b"{}," * 1_000_000)),
    "names": ("/api/chat", b"{%b}" % b",".join(b'"%d":0' % n for n in range(250_000))),
    "brackets": ("/v1/responses", b"[" * (30 << 20)),
}
MAX_BUSY = 6
"""Maximum CPU time of client and gateway together, in units of ``reading_s``. Listing every
invalid value took 35."""
MAX_GROWTH_BYTES = 256 << 20


@pytest.mark.parametrize("name", HOSTILE)
def test_body_with_many_invalid_values_is_refused_quickly(
    http: httpx.Client, name: str, reading_s: float
) -> None:
    path, body = HOSTILE[name]
    process = psutil.Process()
    before = process.memory_info().rss
    started = time.process_time()
    answer = http.post(path, content=body)
    assert time.process_time() - started < MAX_BUSY * reading_s
    assert answer.status_code in (400, 413)
    assert process.memory_info().rss - before < MAX_GROWTH_BYTES


def test_too_large_content_length_is_refused_before_the_body_arrives(
    gateway: GatewayThread,
) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(POST % 99_999_999_999)
        assert raw.recv(64).startswith(b"HTTP/1.1 413")


def test_body_that_does_not_arrive_is_408(cluster: ScriptedCluster) -> None:
    with running_gateway(cluster, body_deadline_s=0.2) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            raw.sendall(POST % 9 + b"{")
            assert raw.recv(64).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/nothing/", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods_get_the_usual_error_object(
    http: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    assert_refused(http.request(method, path), status, code)


def test_model_ids_may_contain_slashes(http: httpx.Client) -> None:
    [model] = http.get("/v1/models").json()["data"]
    assert model["id"] == MODEL
    assert model["context_length"] == CONTEXT_LENGTH
    assert http.get(f"/v1/models/{MODEL}").json() == model
    assert http.get("/v1/models/org%2Ftiny").json() == model
    assert_refused(http.get("/v1/models/org/other"), 404, "model_not_found", "model")


def test_valid_request_id_is_returned_and_an_invalid_one_replaced(http: httpx.Client) -> None:
    valid = http.get("/health", headers={"x-request-id": "mine-1"})
    assert valid.headers["x-request-id"] == "mine-1"
    other = http.get("/health", headers={"x-request-id": "a b<c>"})
    assert other.headers["x-request-id"].startswith("req_")


def test_responses_are_not_delayed_by_nagles_algorithm(http: httpx.Client) -> None:
    """Nagle's algorithm and delayed acknowledgements together add 40 ms to a response."""
    spans: list[float] = []
    for _ in range(20):
        started = time.monotonic()
        http.get("/health")
        spans.append(time.monotonic() - started)
    assert sorted(spans)[len(spans) // 2] < 0.03


@pytest.mark.parametrize(
    ("path", "hanging", "code", "param"),
    [
        ("/v1/chat/completions", {"messages": [HANG]}, "invalid_messages", "messages"),
        ("/v1/chat/completions", {"messages": [SLOW]}, "invalid_text", None),
        ("/v1/completions", {"prompt": SLOW["content"]}, "invalid_text", None),
    ],
)
def test_prompt_that_takes_too_long_is_400_and_streams_continue(
    http: httpx.Client, path: str, hanging: dict[str, Any], code: str, param: str | None
) -> None:
    answered = 0
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(http.post, path, json={"model": MODEL, **hanging}, timeout=60)
        while not answer.done():
            ids = {"model": MODEL, "prompt": [104], "stream": True}
            text = http.post("/v1/completions", json=ids).raise_for_status().text
            assert text.endswith("data: [DONE]\n\n")
            answered += 1
    message = assert_refused(answer.result(), 400, code, param)
    assert f"after {DEADLINE_S:g} s" in message
    assert answered > 20


def test_text_that_the_tokenizer_cannot_split_is_400(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"model": MODEL, "prompt": "x" * 40})
    assert "cannot split this text" in assert_refused(answer, 400, "invalid_text")


def test_unsupported_keyword_in_a_schema_is_located(http: httpx.Client) -> None:
    schema = {
        "$defs": {"a": {"properties": {"b/c": {"not": {"type": "null"}}}}},
        "items": {"$ref": "#/$defs/a"},
    }
    answer = http.post("/v1/chat/completions", json={**OK, "response_format": json_format(schema)})
    message = assert_refused(answer, 400, UNSUPPORTED, SCHEMA_AT)
    assert "'/$defs/a/properties/b~1c'" in message
    assert '"not"' in message


def test_grammar_past_its_deadline_is_refused(
    cluster: ScriptedCluster,
) -> None:
    with running_gateway(cluster, grammar_deadline_s=1e-9) as gateway:
        # Large enough that no thread finishes before the event loop checks the deadline.
        large = {"properties": {f"p{n}": {"type": "string", "maxLength": n} for n in range(300)}}
        body = {**OK, "response_format": json_format(large)}
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body)
        assert answer.status_code in (400, 503)
        assert "compile" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "model",
    ["/etc", "/", "/etc/passwd", "../m", "a/../../m", "~", "m", "https://x.example/m", "o/m:../a",
     "o/m/n", "o/\u202em", "o/m\n", "a\x00b", "file:///etc", "/proc/self/mem", "o/" + "m" * 600,
     "/dev/zero", " "],
)  # fmt: skip
def test_load_of_what_cannot_be_a_model_is_400(http: httpx.Client, model: str) -> None:
    answer = http.post("/v1/models/load", json={"model": model})
    assert_refused(answer, 400, "invalid_model", "model")
    assert model not in {x["id"] for x in http.get("/v1/models").json()["data"]}


def test_request_that_stage_workers_would_drop_is_refused_at_once(
    gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_too_many_stop_ids(**fields: Any) -> Submit:
        sampling = replace(fields["sampling"], stop_ids=tuple(range(MAX_STOP_IDS + 1)))
        return Submit(**{**fields, "sampling": sampling})

    monkeypatch.setattr("pomona_gateway.pipeline.client.Submit", with_too_many_stop_ids)
    body = {"model": MODEL, "prompt": "x"}
    answer = httpx.post(f"{gateway.url}/v1/completions", json=body, timeout=10)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"
    assert "sampling.stop_ids" in answer.json()["error"]["message"]
