"""Deadlines and limits of a client's headers, and HTTPS."""

from __future__ import annotations

import asyncio
import json
import resource
import select
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from pomona.errors import ConfigurationError
from pomona_gateway.http.client_deadlines import RESERVED_FILES
from pomona_gateway.server import serve
from pomona_gateway.settings import GatewaySettings
from support.doubles.gateway_thread import GatewayThread, running_gateway
from support.doubles.scripted_cluster import ScriptedCluster
from support.models.tiny_model import say
from support.waiting import wait_until

MODEL = "tiny"
HEAD = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def short_deadline(cluster: ScriptedCluster) -> Iterator[GatewayThread]:
    """A gateway with a short deadline for headers."""
    with running_gateway(cluster, headers_deadline_s=0.3) as gateway:
        yield gateway


def connect(gateway: GatewayThread) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def read_all(raw: socket.socket) -> bytes:
    """Receives until the other side closes."""
    parts: list[bytes] = []
    try:
        while part := raw.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def send_slowly(raw: socket.socket, what: bytes) -> bytes:
    """Sends ``what`` byte by byte, repeatedly, until the other side closes.

    Returns the bytes received.
    """
    raw.settimeout(0.02)
    received = b""
    end = time.monotonic() + PATIENCE_S
    for n in range(10**6):
        assert time.monotonic() < end, "the connection was never closed"
        try:
            raw.sendall(what[n % len(what) : n % len(what) + 1])
            part = raw.recv(65536)
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            return received
        if not part:
            return received
        received += part
    raise AssertionError


def error_of(answer: bytes, status: int) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"\r\nx-request-id: req_" in head.lower()
    assert b"\r\nconnection: close" in head.lower()
    return json.loads(body)["error"]


def test_slow_headers_are_cut_off_with_408(short_deadline: GatewayThread) -> None:
    with connect(short_deadline) as raw:
        answer = send_slowly(raw, HEAD + b"x-slow: " + b"a" * 10_000)
    error = error_of(answer, 408)
    assert error["code"] == "headers_timeout"
    assert "POMONA_GATEWAY_HEADERS_DEADLINE_S" in error["message"]
    page = httpx.get(f"{short_deadline.url}/metrics").text
    assert 'request_refused_total{code="headers_timeout",model_name="",status="408"} 1.0' in page


def test_later_request_of_a_connection_has_the_same_deadline(short_deadline: GatewayThread) -> None:
    with connect(short_deadline) as raw:
        raw.sendall(HEAD + b"\r\n")
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            answer += raw.recv(65536)
        assert error_of(send_slowly(raw, HEAD * 1000), 408)["code"] == "headers_timeout"


def test_idle_connection_is_closed_without_a_response(short_deadline: GatewayThread) -> None:
    with connect(short_deadline) as raw:
        assert read_all(raw) == b""


def test_unread_body_is_cut_off(short_deadline: GatewayThread) -> None:
    with connect(short_deadline) as raw:
        raw.sendall(HEAD + b"content-length: 1000000\r\n\r\n")
        assert send_slowly(raw, b"x").startswith(b"HTTP/1.1 200")


def test_headers_deadline_does_not_limit_the_response(
    short_deadline: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say("hello " * 6, step_s=0.1)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with httpx.Client(base_url=short_deadline.url) as client:
        for _ in range(2):
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.text.endswith("data: [DONE]\n\n")
            assert answer.elapsed.total_seconds() > 2 * short_deadline.settings.headers_deadline_s


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (HEAD + b"x-big: " + b"a" * 50_000, 431, "headers_too_large"),
        (b"GET /" + b"a" * 50_000, 431, "headers_too_large"),
        (HEAD + b"x: y\r\n" * 200 + b"connection: close\r\n\r\n", 431, "too_many_headers"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "invalid_http"),
        (b"HELO there\r\n\r\n", 400, "invalid_http"),
        (HEAD + b"content-length: -1\r\n\r\n", 400, "invalid_http"),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, "invalid_http"),
    ],
)
def test_invalid_headers_get_the_usual_error_object(
    gateway: GatewayThread, sent: bytes, status: int, code: str
) -> None:
    with connect(gateway) as raw:
        raw.sendall(sent)
        answer = read_all(raw)
    assert error_of(answer, status)["code"] == code


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.1", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
        ("1.1", "content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        ("1.0", "transfer-encoding: chunked\r\n"),
        ("1.1", "content-length: 5\r\ncontent-length: 6\r\n"),
        ("1.1", "content-length: -1\r\n"),
    ],
)
def test_two_statements_of_a_length_are_400_and_close_the_connection(
    gateway: GatewayThread, version: str, headers: str
) -> None:
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/{version}\r\nhost: localhost\r\n{headers}\r\n"
    with connect(gateway) as raw:
        raw.sendall(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        answer = read_all(raw)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") - answer.count(b"HTTP/1.1 request") == 1
    assert b"invalid_http" in answer


@pytest.mark.parametrize("size", [32_769, 40_000, 70_000])
@pytest.mark.parametrize("place", ["header", "query"])
def test_headers_beyond_the_limit_are_431_however_they_arrive(
    gateway: GatewayThread, size: int, place: str
) -> None:
    filling = "x" * size
    line = f"/health?{filling}" if place == "query" else "/health"
    extra = f"x-filling: {filling}\r\n" if place == "header" else ""
    request = f"GET {line} HTTP/1.1\r\nhost: localhost\r\n{extra}\r\n".encode()
    for part in (len(request), 10_000):
        with connect(gateway) as raw:
            try:
                for begin in range(0, len(request), part):
                    raw.sendall(request[begin : begin + part])
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert read_all(raw).startswith(b"HTTP/1.1 431")
    with connect(gateway) as raw:
        raw.sendall(request.replace(filling.encode(), b"x" * 32_000))
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")


def test_invalid_chunk_closes_only_its_own_connection(gateway: GatewayThread) -> None:
    path = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    with connect(gateway) as raw:
        raw.sendall(path + b"transfer-encoding: chunked\r\n\r\nnot a size\r\n")
        assert error_of(read_all(raw), 400)["code"] == "invalid_http"
    assert httpx.get(f"{gateway.url}/health").status_code == 200


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA certificate, two certificates it issued, and an invalid file."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("own", "other"):
        made = authority.issue_cert("localhost", "127.0.0.1")
        made.private_key_pem.write_to_path(folder / f"{name}.key")
        for blob in made.cert_chain_pems:
            blob.write_to_path(folder / f"{name}.pem", append=True)
    (folder / "junk.pem").write_text("no certificate")
    return folder


def test_https_with_a_certificate(cluster: ScriptedCluster, certificates: Path) -> None:
    cluster.head.script = lambda _: say("hello")
    pair = {"tls_certificate": certificates / "own.pem", "tls_key": certificates / "own.key"}
    with running_gateway(cluster, **pair) as gateway:
        assert gateway.url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        with httpx.Client(base_url=gateway.url, verify=trust) as client:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.json()["choices"][0]["message"]["content"] == "hello"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{gateway.url}/health")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{gateway.url.replace('https', 'http')}/health")


def test_tls_handshake_has_the_headers_deadline(
    cluster: ScriptedCluster, certificates: Path
) -> None:
    pair = {"tls_certificate": certificates / "own.pem", "tls_key": certificates / "own.key"}
    with running_gateway(cluster, headers_deadline_s=0.3, **pair) as gateway:
        host, port = gateway.url.removeprefix("https://").split(":")
        client_hello = b"\x16\x03\x01\x02\x00\x01"
        for sent in (b"", client_hello):
            with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as raw:
                raw.sendall(sent)
                assert read_all(raw) == b""


@pytest.mark.parametrize(
    ("certificate", "key"), [("own.pem", "other.key"), ("junk.pem", "own.key")]
)
def test_certificate_that_does_not_match_its_key_stops_the_start(
    certificates: Path, tmp_path: Path, certificate: str, key: str
) -> None:
    settings = GatewaySettings(
        port=0,
        state_dir=tmp_path,
        tls_certificate=certificates / certificate,
        tls_key=certificates / key,
    )
    with pytest.raises(ConfigurationError, match="TLS_CERTIFICATE"):
        asyncio.run(serve(settings, asyncio.Event()))


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
CHAT = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest.mark.parametrize(
    ("version", "header"),
    [("1.1", "host: localhost"), ("1.1", "host: localhost\r\nconnection: close"), ("1.0", "x: y")],
)
def test_client_that_stops_sending_gets_its_response(
    gateway: GatewayThread, version: str, header: str
) -> None:
    head = f"POST /v1/chat/completions HTTP/{version}\r\n{header}\r\n"
    with connect(gateway) as raw:
        raw.sendall(f"{head}content-length: {len(CHAT)}\r\n\r\n".encode() + CHAT)
        raw.shutdown(socket.SHUT_WR)
        answer = read_all(raw)
    # The gateway asks with `100 Continue` whether the client still reads if it is slow to answer.
    assert answer.replace(INTERIM, b"").startswith(b"HTTP/1.1 200")
    assert b'"finish_reason":"stop"' in answer


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_announced_its_last_request_and_left_frees_its_place(
    gateway: GatewayThread, cluster: ScriptedCluster, fresh: None, stream: bool
) -> None:
    cluster.head.script = lambda _: say("hello", places=tuple(range(999, 0, -1)), step_s=0.1)
    body = json.dumps({**json.loads(CHAT), "stream": stream}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    with connect(gateway) as raw:
        raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(cluster.head.requests, "a submit")
    wait_until(lambda: cluster.head.cancelled, "a cancel")
    cluster.head.script = lambda _: say("A")


def test_more_connections_than_descriptors_are_503_and_the_gateway_comes_back(
    cluster: ScriptedCluster,
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[socket.socket] = []
    with running_gateway(cluster, headers_deadline_s=300) as gateway:
        used = len(list(Path("/dev/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + RESERVED_FILES + 60, limits[1]))
        try:
            while not (answered := select.select(held, [], [], 0)[0]):
                assert len(held) < RESERVED_FILES - 8, "every connection was accepted"
                held.append(connect(gateway))
                if len(held) > RESERVED_FILES // 2:
                    select.select(held, [], [], 0.2)
            head, _, body = read_all(answered[0]).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in head.lower()
            assert json.loads(body)["error"]["code"] == "too_many_connections"
            for raw in held:
                raw.close()
            wait_until(lambda: is_healthy(gateway), "an answer again")
        finally:
            for raw in held:
                raw.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def is_healthy(gateway: GatewayThread) -> bool:
    try:
        return httpx.get(f"{gateway.url}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("accept", ["*/*", "application/json"])
def test_root_answers_health_checks(gateway: GatewayThread, accept: str) -> None:
    answer = httpx.get(gateway.url, headers={"accept": accept})
    assert answer.status_code == 200
    assert (answer.json()["name"] == "Pomona") if "json" in accept else "Pomona is" in answer.text
    head = httpx.head(gateway.url)
    assert (head.status_code, head.content) == (200, b"")


def test_names_of_models_follow_aliases_and_the_setting(cluster: ScriptedCluster) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with running_gateway(
        cluster, model_aliases={"claude-*": MODEL}, unknown_models="loaded"
    ) as gateway:
        for name in ("claude-sonnet-4", "CLAUDE-x", "TINY:latest", "gpt-9"):
            answer = httpx.post(f"{gateway.url}/v1/chat/completions", json={"model": name, **body})
            assert answer.json()["model"] == MODEL


def test_default_limit_is_named_where_it_applies(cluster: ScriptedCluster) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    with running_gateway(cluster, default_max_tokens=7) as gateway:
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body)
        assert answer.headers["x-pomona-ignored"] == "max_tokens.default-7"
        assert cluster.head.submitted[-1].submit.sampling.max_tokens == 7
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json={**body, "max_tokens": 3})
        assert "x-pomona-ignored" not in answer.headers
