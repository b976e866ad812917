"""Requests across epochs, disconnects and deadlines; drain and end of the gateway."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from pomona.leases import LEASE_S
from pomona.messages.control import WantedModel
from support.doubles.gateway_thread import GatewayThread, running_gateway
from support.doubles.scripted_cluster import BEACON_INTERVAL_S, ScriptedCluster
from support.doubles.scripted_head import Script, Submitted
from support.members import lend_scripted_keys
from support.models.tiny_model import end_id, tiny_tokenizer, write_tiny_model
from support.ports import free_port
from support.waiting import wait_until

MODEL = "tiny"
AT_ONCE_S = 5.0
"""The reply whose client leaves would take four times as long."""
REPLY = "hello wörld 😀, said 日本 and hello again"
TOKENIZER = tiny_tokenizer()
IDS = tuple(TOKENIZER.encode(REPLY, chat=True))
WHOLE = Script(ids=IDS, end=end_id())
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s"
FAST: dict[str, Any] = {
    "first_token_deadline_s": 5.0,
    "token_deadline_s": 5.0,
    "recovery_deadline_s": 5.0,
    "send_deadline_s": 0.3,
    "keep_alive_s": 0.1,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def cluster(source: str) -> Generator[ScriptedCluster]:
    with ScriptedCluster.running(lambda _: WHOLE, MODEL, source) as cluster:
        yield cluster


@pytest.fixture
def gateway(cluster: ScriptedCluster) -> Generator[GatewayThread]:
    with running_gateway(cluster, **FAST) as gateway:
        yield gateway


def request(**body: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **body}


def stream_text(gateway: GatewayThread, meanwhile: Callable[[], None] | None = None) -> str:
    """Returns the text of a streamed reply; calls ``meanwhile`` after the first text."""
    text = ""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        for chunk in client.chat.completions.create(**request(stream=True)):
            piece = chunk.choices[0].delta.content or ""
            if piece and not text and meanwhile is not None:
                meanwhile()
            text += piece
    return text


def events(lines: str) -> list[Any]:
    """Returns the content of the ``data:`` lines of a stream."""
    parts = [x.removeprefix("data: ") for x in lines.splitlines() if x.startswith("data: ")]
    return [x if x == "[DONE]" else json.loads(x) for x in parts]


def by_attempt(*scripts: Script) -> Callable[[Submitted], Script]:
    """Returns a script function: one script for each attempt, the last one for all later ones."""
    return lambda submitted: scripts[min(submitted.submit.attempt, len(scripts) - 1)]


def raise_epoch(cluster: ScriptedCluster) -> None:
    cluster.epoch += 1
    cluster.change()


def test_reply_continues_in_the_next_epoch_where_it_stopped(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = by_attempt(replace(WHOLE, fail_after=7), WHOLE)
    assert stream_text(gateway, lambda: raise_epoch(cluster)) == REPLY
    first, second = cluster.head.requests()
    assert second.submit.request == first.submit.request
    assert (first.submit.attempt, second.submit.attempt) == (0, 1)
    emitted = second.submit.emitted
    assert 0 < emitted <= 7
    assert second.ids == [*first.ids, *IDS[:emitted]]
    assert second.submit.sampling == first.submit.sampling
    assert second.epoch == 2


def test_new_epoch_resubmits_a_request_whose_head_is_silent(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = by_attempt(replace(WHOLE, silent_after=5), WHOLE)
    assert stream_text(gateway, lambda: raise_epoch(cluster)) == REPLY


def test_request_waits_for_a_new_pipeline_with_keep_alive_comments(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = by_attempt(replace(WHOLE, silent_after=5), WHOLE)
    cluster.state, cluster.epoch = "active", 1

    with httpx.stream(
        "POST", f"{gateway.url}/v1/chat/completions", json=request(stream=True)
    ) as answer:
        lines = answer.iter_lines()
        first = [next(lines) for _ in range(4)]
        cluster.state, cluster.epoch = "forming", 2
        cluster.change()
        rest: list[str] = []
        for line in lines:
            rest.append(line)
            if line.startswith(": ") and cluster.state == "forming":
                cluster.state = "active"
                cluster.change()
    assert cluster.state == "active", "no comment while the pipeline was forming"
    text = "".join(
        x["choices"][0]["delta"].get("content", "")
        for x in events("\n".join([*first, *rest]))
        if x != "[DONE]"
    )
    assert text == REPLY


def test_lost_repeated_and_stale_tokens_never_reach_the_text(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    gap = (0, 1, 2, 3, 4, 8, 9)
    doubled = (5, 6, 5, 6, 7, 7)
    cluster.head.script = by_attempt(
        replace(WHOLE, order=gap), replace(WHOLE, order=doubled, silent_after=6), WHOLE
    )
    repeated = 'pomona_messages_dropped_total{reason="duplicate"} 3.0'

    def move_on() -> None:
        url = f"{gateway.url}/metrics"
        with httpx.Client(verify=False) as client:
            wait_until(lambda: repeated in client.get(url).text, "repeated tokens")
        raise_epoch(cluster)

    assert stream_text(gateway, move_on) == REPLY
    text = httpx.get(f"{gateway.url}/metrics", verify=False).text
    assert 'pomona_messages_dropped_total{reason="gap"} 1.0' in text
    assert repeated in text


def test_request_that_fails_in_three_epochs_without_a_new_token_ends_with_an_error_event(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    timers: list[threading.Timer] = []

    def script(submitted: Submitted) -> Script:
        # Later than the first progress message: an earlier epoch would precede the stream.
        timers.append(threading.Timer(0.1, raise_epoch, (cluster,)))
        timers[-1].start()
        return replace(WHOLE, fail_after=2 if len(timers) == 1 else 0)

    cluster.head.script = script
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=request(stream=True))
    assert answer.status_code == 200
    *_, error, done = events(answer.text)
    assert error["error"]["code"] == "pipeline_failed"
    assert done == "[DONE]"
    assert len(cluster.head.requests()) == 1 + 3
    for timer in timers:
        timer.join(5.0)
    cluster.head.script = lambda _: WHOLE
    gateway.ready()
    assert stream_text(gateway) == REPLY


def test_pipeline_that_does_not_recover_is_503_after_the_deadline(
    cluster: ScriptedCluster,
) -> None:
    with running_gateway(cluster, **{**FAST, "recovery_deadline_s": 0.3}) as gateway:
        cluster.head.script = lambda _: replace(WHOLE, fail_after=3)
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=request())
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "pipeline_lost"


@pytest.mark.parametrize(
    ("silent_after", "code"), [(0, "first_token_timeout"), (3, "token_timeout")]
)
def test_silent_pipeline_is_504_after_the_deadline(
    cluster: ScriptedCluster, silent_after: int, code: str
) -> None:
    deadlines = {"first_token_deadline_s": 0.3, "token_deadline_s": 0.3}
    with running_gateway(cluster, **{**FAST, **deadlines}) as gateway:
        cluster.head.script = lambda _: replace(WHOLE, silent_after=silent_after)
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=request())
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, code)
        wait_until(lambda: cluster.head.cancelled, "a cancel")


def test_head_that_takes_no_messages_is_503_after_the_deadline(cluster: ScriptedCluster) -> None:
    with running_gateway(cluster, **{**FAST, "recovery_deadline_s": 0.3}) as gateway:
        cluster.silent = {"planner", "stage_worker"}
        cluster.head.close()
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=request())
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "pipeline_lost"
        assert answer.headers["retry-after"]


def test_serving_continues_without_beacons(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.silent = {"planner", "stage_worker"}
    silent_since = time.monotonic()
    ends_at = silent_since + LEASE_S + BEACON_INTERVAL_S
    wait_until(lambda: time.monotonic() > ends_at, "the end of every lease")
    assert stream_text(gateway) == REPLY


def test_serving_continues_while_the_planner_restarts(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.planner_state, cluster.state = "starting", "forming"
    # The workers' beacons follow the planner's, so their metric shows that it was received.
    cluster.sequence_tokens = 250
    cluster.change()
    usage = f'kv_cache_usage_perc{{model_name="{MODEL}"}} 0.25'
    wait_until(lambda: usage in httpx.get(f"{gateway.url}/metrics").text, "the new beacons")
    assert stream_text(gateway) == REPLY


def test_readyz_and_requests_give_the_reason_without_a_pipeline(
    cluster: ScriptedCluster,
) -> None:
    cluster.state, cluster.stage_state = "forming", "loading"
    gateway = GatewayThread(cluster, **FAST)
    try:

        def has_reason() -> bool:
            body = httpx.get(f"{gateway.url}/readyz", verify=False).json()
            return "25% of its weights" in body["reason"]

        wait_until(has_reason, "a reason")
        assert httpx.get(f"{gateway.url}/health", verify=False).status_code == 200
        wait_until(lambda: chat_code(gateway) == "model_not_ready", "a refusal")
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=request())
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        cluster.state, cluster.stage_state = "active", "ready"
        cluster.change()
        gateway.ready()
        facts = list(cluster.gateways.values())[-1].facts
        wait_until(lambda: list(cluster.gateways.values())[-1].state == "ready", "a ready beacon")
        facts = list(cluster.gateways.values())[-1].facts
        assert getattr(facts, "proven_epochs", None) == {MODEL: 1}
    finally:
        gateway.stop()
        gateway.join()


def test_readyz_says_what_loads_a_model_after_all_were_unloaded(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.models = (WantedModel(MODEL, MODEL, False),)
    cluster.plans_nothing = True
    cluster.change()
    reasons: list[str] = []

    def has_reason() -> bool:
        reasons.append(httpx.get(f"{gateway.url}/readyz").json()["reason"])
        return reasons[-1] == "no model is loaded: the next request loads it"

    wait_until(has_reason, f"the reason, not {reasons[-1:]}")


@pytest.mark.parametrize("stream", [False, True])
def test_request_that_arrives_while_the_pipeline_forms_again_waits_for_it(
    gateway: GatewayThread, cluster: ScriptedCluster, stream: bool
) -> None:
    cluster.state, cluster.epoch = "forming", 2
    cluster.change()
    ready = f"{gateway.url}/readyz"
    wait_until(lambda: httpx.get(ready).status_code == 503, "the end of the route")
    replies: list[httpx.Response] = []

    def post() -> None:
        body = request(stream=stream)
        replies.append(httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=30))

    thread = threading.Thread(target=post)
    thread.start()
    waiting = f'num_requests_waiting{{model_name="{MODEL}"}} 1.0'
    url = f"{gateway.url}/metrics"
    wait_until(lambda: waiting in httpx.get(url).text, "a waiting request")
    cluster.state = "active"
    cluster.change()
    thread.join(30)
    assert replies[0].status_code == 200
    parts = [x for x in events(replies[0].text) if x != "[DONE]"] if stream else []
    whole = [] if stream else [replies[0].json()["choices"][0]["message"]["content"]]
    text = "".join([*whole, *(x["choices"][0]["delta"].get("content", "") for x in parts)])
    assert text == REPLY


def test_request_to_a_gateway_that_has_just_started_waits_for_what_it_needs(
    cluster: ScriptedCluster,
) -> None:
    gateway = GatewayThread(cluster, **FAST)
    try:
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=request(), timeout=30)
        assert answer.status_code == 200
    finally:
        gateway.stop()
        gateway.join()


def chat_code(gateway: GatewayThread) -> str:
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=request())
    return str(answer.json()["error"]["code"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("silent", [False, True])
def test_disconnect_cancels_the_request_at_once(
    gateway: GatewayThread, cluster: ScriptedCluster, stream: bool, silent: bool
) -> None:
    slow = Script(ids=IDS * 20, end=end_id(), step_s=0.02)
    cluster.head.script = lambda _: replace(slow, silent_after=0) if silent else slow
    body = json.dumps(request(stream=stream)).encode()
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(POST % (len(body), body))
        wait_until(cluster.head.requests, "a submit")
        if stream:
            assert raw.recv(64)
        wait_until(lambda: has_running_requests(gateway), "a running request")
    left = time.monotonic()
    wait_until(lambda: cluster.head.cancelled, "a cancel")
    at, cancel = cluster.head.cancelled[0]
    assert at - left < AT_ONCE_S
    assert cancel.request == cluster.head.requests()[0].submit.request


def test_nothing_is_written_to_a_disconnected_client(
    gateway: GatewayThread, cluster: ScriptedCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio logs a warning for every write to a connection that is known to be closed."""
    many = IDS * (1000 // len(IDS))
    cluster.head.script = lambda _: Script(ids=many, batch=len(many))
    body = json.dumps(request(stream=True, max_tokens=len(many) - 1)).encode()
    host, _, port = gateway.url.removeprefix("http://").rpartition(":")
    for _ in range(12):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(POST % (len(body), body))
            client.recv(100)
            # The reply is being written; closing with unread bytes resets the connection.
        wait_until(lambda: not has_running_requests(gateway), "the end of the request")
    assert [x.getMessage() for x in caplog.records if x.name == "asyncio"] == []


def has_running_requests(gateway: GatewayThread) -> bool:
    text = httpx.get(f"{gateway.url}/metrics").text
    return f'num_requests_running{{model_name="{MODEL}"}} 0.0' not in text


def test_slow_reader_loses_only_its_own_request(cluster: ScriptedCluster) -> None:
    with running_gateway(cluster, **{**FAST, "stream_buffer_tokens": 64}) as gateway:
        cluster.head.script = lambda _: Script(ids=(65,) * 400, step_s=0.0)
        many = request(stream=True, n=16)
        body = json.dumps(many).encode()
        host, port = gateway.url.removeprefix("http://").split(":")
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect((host, int(port)))
            raw.sendall(POST % (len(body), body))
            wait_until(lambda: cluster.head.cancelled, "a cancel")
            cluster.head.script = lambda _: WHOLE
            assert stream_text(gateway) == REPLY


@pytest.mark.parametrize(
    ("settings", "reads"),
    [
        ({"stall_deadline_s": 0.3, "stream_buffer_tokens": 1 << 16}, False),
        ({"stream_buffer_tokens": 64}, True),
    ],
)
def test_a_client_that_reads_too_slowly_gets_an_error_event_and_a_line_of_log(
    cluster: ScriptedCluster,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    reads: bool,
) -> None:
    caplog.set_level(logging.WARNING)
    with running_gateway(cluster, **{**FAST, **settings}) as gateway:
        cluster.head.script = lambda _: Script(ids=(65,) * 400, step_s=0.0, batch=50)
        body = json.dumps(request(stream=True, n=16)).encode()
        host, port = gateway.url.removeprefix("http://").split(":")
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.settimeout(10)
            raw.connect((host, int(port)))
            raw.sendall(POST % (len(body), body))

            def is_logged() -> bool:
                return any("reads too slowly" in x.getMessage() for x in caplog.records)

            if not reads:
                wait_until(is_logged, "a line of log")
            else:
                wait_until(lambda: cluster.head.cancelled, "a cancel")
            received = b""
            while b"client_too_slow" not in received and (part := raw.recv(65536)):
                received += part
        assert b"client_too_slow" in received
        wait_until(is_logged, "a line of log")


def test_a_second_signal_ends_streams_with_an_error_event(cluster: ScriptedCluster) -> None:
    gateway = GatewayThread(cluster, **{**FAST, "drain_deadline_s": 60.0})
    gateway.ready()
    cluster.head.script = lambda _: Script(ids=IDS, silent_after=3)

    def stop_twice() -> None:
        gateway.stop()
        wait_until(lambda: gateways_state(cluster) == "draining", "a draining gateway")
        gateway.stop_at_once()

    with pytest.raises(openai.APIError, match="shut down before the reply"):
        stream_text(gateway, stop_twice)
    gateway.join()


def test_drain_finishes_running_replies_and_answers_new_requests_with_503(
    cluster: ScriptedCluster,
) -> None:
    gateway = GatewayThread(cluster, **FAST)
    gateway.ready()
    cluster.head.script = lambda _: replace(WHOLE, step_s=0.05)
    refused: list[httpx.Response] = []

    def drain() -> None:
        gateway.stop()
        wait_until(lambda: gateways_state(cluster) == "draining", "a draining gateway")
        refused.append(httpx.post(f"{gateway.url}/v1/chat/completions", json=request()))

    assert stream_text(gateway, drain) == REPLY
    assert (refused[0].status_code, refused[0].headers["retry-after"]) == (503, "2")
    assert refused[0].json()["error"]["code"] == "shutting_down"
    assert refused[0].headers["connection"] == "close"
    gateway.join()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{gateway.url}/health", verify=False)
    assert gateways_state(cluster) == "draining"


def gateways_state(cluster: ScriptedCluster) -> str:
    return list(cluster.gateways.values())[-1].state


def test_new_gateway_takes_the_socket_over_while_the_old_one_finishes_its_streams(
    cluster: ScriptedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as held:
        url = f"http://127.0.0.1:{held.getsockname()[1]}"

        def start() -> GatewayThread:
            monkeypatch.setenv("POMONA_GATEWAY_LISTEN_FD", str(os.dup(held.fileno())))
            gateway = GatewayThread(cluster, **FAST)
            gateway.ready()
            return gateway

        old = start()
        assert old.url == url
        cluster.head.script = lambda _: replace(WHOLE, step_s=0.1)
        started: list[GatewayThread] = []

        def replace_gateway() -> None:
            old.stop()
            wait_until(lambda: gateways_state(cluster) == "draining", "a draining gateway")
            started.append(start())
            cluster.head.script = lambda _: WHOLE

            def takes_all() -> bool:
                return {httpx.get(f"{url}/readyz").status_code for _ in range(20)} == {200}

            wait_until(takes_all, "the old gateway to accept no more")
            assert stream_text(started[0]) == REPLY

        assert stream_text(old, replace_gateway) == REPLY
        old.join()
        started[0].stop()
        started[0].join()
        with socket.create_connection(held.getsockname()) as waiting:
            assert waiting.getpeername() == held.getsockname()


def test_drain_past_its_deadline_ends_streams_with_an_error(cluster: ScriptedCluster) -> None:
    gateway = GatewayThread(cluster, **{**FAST, "drain_deadline_s": 0.2})
    gateway.ready()
    cluster.head.script = lambda _: replace(WHOLE, silent_after=3)
    with httpx.stream(
        "POST", f"{gateway.url}/v1/chat/completions", json=request(stream=True)
    ) as answer:
        wait_until(cluster.head.requests, "a submit")
        gateway.stop()
        *_, error, done = events("\n".join(answer.iter_lines()))
    gateway.join()
    assert error["error"]["code"] == "shutting_down"
    assert done == "[DONE]"
    assert cluster.head.cancelled


def test_process_serves_and_ends_cleanly_on_sigterm(
    cluster: ScriptedCluster, tmp_path: Path
) -> None:
    port = free_port()
    lend_scripted_keys(tmp_path)
    environment = {
        **os.environ,
        "POMONA_NODE": "near",
        "POMONA_GATEWAY_PORT": str(port),
        "POMONA_CONTROL_PUBLISH": cluster.publish,
        "POMONA_CONTROL_SUBSCRIBE": cluster.subscribe,
        "POMONA_STATE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-W", "error", "-m", "pomona_gateway"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            try:
                return httpx.get(f"{url}/readyz", verify=False).status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_until(ready, "readiness")
            second = subprocess.run(command, env=environment, capture_output=True, timeout=20)
            assert second.returncode == 78
            assert b"POMONA_GATEWAY_PORT" in second.stderr
            answer = httpx.post(f"{url}/v1/chat/completions", json=request())
            assert answer.json()["choices"][0]["message"]["content"] == REPLY
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=15)
    assert process.returncode == 0, errors.decode()
    assert b"Traceback" not in errors
    assert REPLY.encode() not in errors
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))
