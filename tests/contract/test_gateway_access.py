"""API keys, their limits, host names, origins and media types."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pomona.auth.api_keys import KeyLimits, KeyStore
from pomona.auth.key_usage import UsageStore
from pomona.errors import ConfigurationError
from pomona_gateway.server import serve
from pomona_gateway.settings import GatewaySettings
from support.doubles.gateway_thread import GatewayThread, running_gateway
from support.doubles.scripted_cluster import ScriptedCluster
from support.models.tiny_model import say
from support.waiting import wait_until

MODEL = "tiny"
A = say("A")
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyStore:
    return KeyStore(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def gateway(cluster: ScriptedCluster, keys: KeyStore) -> Generator[GatewayThread]:
    keys.create("first")
    with running_gateway(cluster, require_key=True, state_dir=keys.path.parent) as gateway:
        yield gateway


def post(
    gateway: GatewayThread, path: str = "/v1/chat/completions", **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{gateway.url}{path}", json=BODY, headers=named, verify=False)


def test_missing_or_invalid_key_is_401_in_each_dialect(gateway: GatewayThread) -> None:
    for headers in ({}, {"authorization": "Bearer nope"}, {"x_api_key": "nope"}):
        answer = post(gateway, **headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["x-request-id"]
    assert post(gateway, "/v1/messages").json()["error"]["type"] == "authentication_error"
    assert isinstance(post(gateway, "/api/chat").json()["error"], str)
    assert httpx.get(f"{gateway.url}/health", verify=False).status_code == 200
    assert httpx.get(f"{gateway.url}/readyz", verify=False).status_code == 200


def test_key_works_until_it_is_revoked(
    gateway: GatewayThread, keys: KeyStore, cluster: ScriptedCluster
) -> None:
    secret = keys.create("alice")
    assert post(gateway, authorization=f"Bearer {secret}").status_code == 200
    assert post(gateway, x_api_key=secret).status_code == 200
    [alice] = [key for key in keys.list() if key.name == "alice"]
    assert cluster.head.requests()[-1].submit.share == alice.id
    keys.revoke("alice")
    assert post(gateway, x_api_key=secret).status_code == 401


def test_exceeded_key_limit_is_429_with_retry_after(gateway: GatewayThread, keys: KeyStore) -> None:
    secret = keys.create("slow", limits=KeyLimits(requests=1))
    assert post(gateway, x_api_key=secret).status_code == 200
    answer = post(gateway, x_api_key=secret)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_a_request_beyond_a_limit_is_refused_before_its_body_is_read(
    gateway: GatewayThread, keys: KeyStore
) -> None:
    secret = keys.create("once", limits=KeyLimits(requests=2))
    headers = {"x-api-key": secret}
    assert post(gateway, "/v1/messages/count_tokens", x_api_key=secret).status_code == 200
    # A request that is not valid counts too; one for a model that does not load does not
    url = f"{gateway.url}/v1/chat/completions"
    assert httpx.post(url, json={**BODY, "n": 99}, headers=headers).status_code == 400
    large = b'{"model": "' + b"x" * (40 << 20)
    assert httpx.post(url, content=large, headers=headers).status_code == 429


def test_a_recreated_key_is_another_tenant(gateway: GatewayThread, keys: KeyStore) -> None:
    def store(secret: str) -> str:
        body = {"model": MODEL, "input": "x"}
        answer = httpx.post(f"{gateway.url}/v1/responses", json=body, headers={"x-api-key": secret})
        return str(answer.json()["id"])

    def read(secret: str, stored: str) -> int:
        url = f"{gateway.url}/v1/responses/{stored}"
        return httpx.get(url, headers={"x-api-key": secret}).status_code

    first = keys.create("eve")
    stored = store(first)
    assert read(first, stored) == 200
    keys.revoke("eve")
    second = keys.create("eve")
    assert read(second, stored) == 404


def test_a_damaged_file_of_keys_is_one_clear_error(
    cluster: ScriptedCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = KeyStore(tmp_path)
    secret = store.create("me")
    with running_gateway(cluster, require_key=True, state_dir=tmp_path) as gateway:
        whole = store.path.read_bytes()
        store.path.write_bytes(whole[:-9])
        for _ in range(3):
            answer = post(gateway, x_api_key=secret)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "keys_unreadable"
        assert httpx.get(f"{gateway.url}/health").status_code == 200
        logged = [x for x in caplog.records if "cannot be read as a list" in x.getMessage()]
        assert len([x for x in logged if x.name == "pomona.auth.api_keys"]) == 1
        store.path.write_bytes(whole)
        wait_until(lambda: post(gateway, x_api_key=secret).status_code == 200, "the key")


def test_queue_share_of_a_key_reaches_the_head(
    gateway: GatewayThread, keys: KeyStore, cluster: ScriptedCluster
) -> None:
    for name, limits, share in (("part", KeyLimits(queue_share=25), 0.25), ("whole", None, 1.0)):
        assert post(gateway, x_api_key=keys.create(name, limits=limits)).status_code == 200
        assert cluster.head.requests()[-1].submit.queue_share == share


def test_key_usage_survives_a_restart(cluster: ScriptedCluster, tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    secret = store.create("dora")
    for total in (1, 2):
        with running_gateway(cluster, require_key=True, state_dir=tmp_path) as gateway:
            usage = post(gateway, x_api_key=secret).json()["usage"]
        used = UsageStore(tmp_path).usage_of(store.list()[0])
        assert (used.requests, used.prompt_tokens, used.reply_tokens) == (
            total,
            total * usage["prompt_tokens"],
            total * usage["completion_tokens"],
        )
        assert used.last > store.list()[0].created


def test_metrics_need_an_administrator_key_and_count_by_key(
    gateway: GatewayThread, keys: KeyStore
) -> None:
    user, administrator = keys.create("bob"), keys.create("root", "administrator")
    post(gateway, x_api_key=user)
    url = f"{gateway.url}/metrics"
    assert httpx.get(url, headers={"x-api-key": user}).status_code == 403
    text = httpx.get(url, headers={"x-api-key": administrator}).text
    assert 'pomona_key_requests_total{key="bob"} 1.0' in text
    assert user not in text


def test_any_key_is_accepted_when_none_is_required(cluster: ScriptedCluster) -> None:
    with running_gateway(cluster) as gateway:
        assert post(gateway).status_code == 200
        assert post(gateway, authorization="Bearer sk-anything").status_code == 200


def test_unknown_host_names_are_refused(cluster: ScriptedCluster) -> None:
    with running_gateway(cluster, allowed_hosts=("mine.example",)) as gateway:
        for host in ("localhost:1", "127.0.0.1", "[::1]:52415", "near.local", "mine.example:80"):
            assert post(gateway, host=host).status_code == 200, host
        answer = post(gateway, host="evil.example")
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "host_not_allowed"


def test_pages_of_foreign_origins_change_nothing(cluster: ScriptedCluster) -> None:
    allowed = "https://chat.example"
    with running_gateway(cluster, cors_origins=(allowed,)) as gateway:
        own = gateway.url.replace("127.0.0.1", "localhost")
        for origin in (allowed, own, "http://127.0.0.1:3000", "http://[::1]", "app://obsidian.md"):
            answer = post(gateway, origin=origin, sec_fetch_site="cross-site")
            assert answer.status_code == 200, origin
            assert answer.headers["access-control-allow-origin"] == origin
        for origin in ("https://x.example", "null", "http://localhost.x.example", "http://[", ""):
            for path in ("/v1/chat/completions", "/v1/models/unload", "/v1/models/load"):
                answer = post(gateway, path, origin=origin)
                assert answer.status_code == 403, (origin, path)
                assert answer.json()["error"]["code"] == "origin_not_allowed"
            assert "access-control-allow-origin" not in answer.headers
        assert post(gateway, sec_fetch_site="cross-site").status_code == 403
        assert post(gateway, sec_fetch_site="same-origin").status_code == 200
        preflight = {"origin": "https://x.example", "access-control-request-method": "POST"}
        assert httpx.options(f"{gateway.url}/api/chat", headers=preflight).status_code == 400
        page = {"origin": "https://x.example"}
        assert httpx.get(f"{gateway.url}/v1/models", headers=page).status_code == 200
        url = f"{gateway.url}/v1/responses/resp_1"
        assert httpx.delete(url, headers=page).status_code == 403
    with running_gateway(cluster, cors_origins=("*",)) as gateway:
        assert post(gateway, origin="https://x.example").status_code == 200


def test_bodies_declared_as_something_else_than_json_are_415(cluster: ScriptedCluster) -> None:
    with running_gateway(cluster) as gateway:
        form = "application/x-www-form-urlencoded"
        for kind in ("text/plain", form, "multipart/form-data; boundary=x", "x"):
            answer = post(gateway, content_type=kind)
            assert answer.status_code == 415, kind
            assert answer.json()["error"]["code"] == "unsupported_media_type"
        assert post(gateway, "/v1/models/load", content_type="text/plain").status_code == 415
        for kind in ("application/json; charset=utf-8", "Application/JSON", "application/ld+json"):
            assert post(gateway, content_type=kind).status_code == 200, kind
        # curl -d, as Ollama's documentation has it; a browser says that it is one
        assert post(gateway, "/api/chat", content_type=form).status_code == 200
        for kind, site in ((form, "same-origin"), ("text/plain", "none")):
            answer = post(gateway, "/api/chat", content_type=kind, sec_fetch_site=site)
            assert answer.status_code == 415


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"host": "0.0.0.0"}, "pomona keys create"),
        ({"tls_key": "missing"}, "TLS_CERTIFICATE"),
        ({"tls_certificate": "missing"}, "TLS_KEY"),
        ({"tls_certificate": "missing", "tls_key": "missing"}, "No such file"),
    ],
)
def test_unsafe_settings_stop_the_start(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    settings = GatewaySettings(port=0, state_dir=tmp_path, **change)
    with pytest.raises(ConfigurationError, match=named):
        asyncio.run(serve(settings, asyncio.Event()))


def test_streams_have_priority_over_whole_responses(
    gateway: GatewayThread, cluster: ScriptedCluster, keys: KeyStore
) -> None:
    secret = keys.create("carol")
    cluster.head.submitted.clear()
    for stream in (False, True):
        headers = {"x-api-key": secret}
        url = f"{gateway.url}/v1/chat/completions"
        httpx.post(url, json={**BODY, "stream": stream}, headers=headers)
    wait_until(lambda: len(cluster.head.requests()) == 2, "two submits")
    background, interactive = cluster.head.requests()
    assert interactive.submit.priority < background.submit.priority
