"""A gateway process is killed: its runs go on in the next one, and stored responses are there."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import openai
import pytest

from support.doubles.gateway_thread import GatewayThread, running_gateway
from support.doubles.scripted_cluster import ScriptedCluster
from support.doubles.scripted_head import Script
from support.members import lend_scripted_keys
from support.models.tiny_model import end_id, say, tiny_tokenizer, write_tiny_model
from support.ports import free_port
from support.processes import ServiceProcess
from support.waiting import wait_until

MODEL = "tiny"
REPLY = "hello wörld 😀, said 日本 and hello again"
IDS = tuple(tiny_tokenizer().encode(REPLY, chat=True))
USER = [{"role": "user", "content": "hi"}]
KEY = {"idempotency-key": "mine"}
FAST: dict[str, Any] = {"drain_deadline_s": 0.1}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def shared_cluster(source: str) -> Generator[ScriptedCluster]:
    with ScriptedCluster.running(lambda _: slow(), MODEL, source) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: ScriptedCluster) -> ScriptedCluster:
    shared_cluster.head.script = lambda _: slow()
    shared_cluster.head.submitted.clear()
    return shared_cluster


@pytest.fixture
def gateway(cluster: ScriptedCluster) -> Generator[GatewayThread]:
    with running_gateway(cluster, **FAST) as gateway:
        yield gateway


@contextmanager
def killed(
    cluster: ScriptedCluster,
    gateway: GatewayThread,
    change: Callable[[Path], None] = lambda x: None,
) -> Generator[GatewayThread]:
    """Runs the gateway that follows one which is killed now.

    It finds the files as they are at this moment, after ``change``. The other one lives on beside
    it, without an effect on the new one.
    """
    with TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        shutil.copytree(gateway.folder, state)
        change(state)
        with running_gateway(cluster, state_dir=state, **FAST) as following:
            yield following


def journal(gateway: GatewayThread) -> str:
    """Returns everything that the journal holds."""
    return "".join(x.read_text() for x in (gateway.folder / "journal").glob("*.run"))


def wait_for_tokens(gateway: GatewayThread) -> None:
    before = journal(gateway).count('"tokens"')
    wait_until(lambda: journal(gateway).count('"tokens"') > before, "tokens in the journal")


def slow() -> Script:
    return Script(ids=IDS, end=end_id(), step_s=0.04)


def client_of(gateway: GatewayThread) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0)


def post(gateway: GatewayThread, **body: Any) -> httpx.Response:
    """Sends a chat with the key."""
    content = {"model": MODEL, "messages": USER, **body}
    url = f"{gateway.url}/v1/chat/completions"
    return httpx.post(url, json=content, headers=KEY, timeout=30)


def texts(lines: list[str]) -> str:
    contents = [json.loads(x[6:]) for x in lines if x.startswith("data: {")]
    return "".join(x["choices"][0]["delta"].get("content", "") for x in contents)


def data(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("data:")]


def test_response_in_the_background_goes_on_with_continued_numbers(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    seen: list[Any] = []
    with client_of(gateway) as client:
        stream: Any = client.responses.create(
            model=MODEL, input="hi", background=True, stream=True, temperature=1.0
        )
        for event in stream:
            seen.append(event)
            if len([x for x in seen if x.type == "response.output_text.delta"]) == 5:
                break
    wait_for_tokens(gateway)
    with killed(cluster, gateway) as following, client_of(following) as client:
        response_id = seen[0].response.id
        after = seen[-1].sequence_number
        rest = list(client.responses.retrieve(response_id, stream=True, starting_after=after))
        assert [x.sequence_number for x in [*seen, *rest]] == list(range(len(seen) + len(rest)))
        last: Any = rest[-1]
        assert last.type == "response.completed"
        assert last.response.output_text == REPLY
        assert last.response.id == response_id
        items = {x.item_id for x in [*seen, *rest] if x.type == "response.output_text.delta"}
        assert len(items) == 1
        assert client.responses.retrieve(response_id) == last.response
        again = list(client.responses.retrieve(response_id, stream=True))
        assert [x.to_json() for x in again] == [x.to_json() for x in [*seen, *rest]]
    first, second = cluster.head.requests()
    assert second.submit.emitted > 0
    assert second.ids[: len(first.ids)] == first.ids
    assert second.submit.sampling == first.submit.sampling


def test_request_with_a_key_is_answered_by_the_next_gateway(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    body = {"model": MODEL, "messages": USER, "stream": True, "temperature": 1.0}
    url = f"{gateway.url}/v1/chat/completions"
    lines: list[str] = []
    with httpx.stream("POST", url, json=body, headers=KEY, timeout=30) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if len(data("\n".join(lines))) == 8:
                break
    wait_for_tokens(gateway)
    with killed(cluster, gateway) as following:
        whole = data(post(following, stream=True, temperature=1.0).text)
        assert texts(whole) == REPLY
        assert whole[:8] == data("\n".join(lines))
        assert len(cluster.head.requests()) == 2
        wait_until(lambda: '"end"' in journal(following), "the end in the journal")
        with killed(cluster, following) as third:
            assert data(post(third, stream=True, temperature=1.0).text) == whole
            assert post(third, stream=True).status_code == 422
    assert len(cluster.head.requests()) == 2


def test_choices_of_a_whole_response_are_answered_after_two_deaths(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    body = {"model": MODEL, "messages": USER, "n": 2}
    url = f"{gateway.url}/v1/chat/completions"
    with pytest.raises(httpx.TransportError):
        httpx.post(url, json=body, headers=KEY, timeout=0.3)
    wait_for_tokens(gateway)
    with killed(cluster, gateway) as second:
        wait_for_tokens(second)
        with killed(cluster, second) as third:
            whole = post(third, n=2).json()
    assert [x["message"]["content"] for x in whole["choices"]] == [REPLY, REPLY]
    assert whole["usage"]["completion_tokens"] == 2 * (len(IDS) + 1)


def test_stored_responses_survive_and_continue(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say("hello")
    with client_of(gateway) as client:
        first = client.responses.create(model=MODEL, input="one")
        secret = client.responses.create(model=MODEL, input="secret", store=False)
    path = gateway.folder / "responses" / f"{first.id}.json"
    wait_until(path.exists, "a file")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with killed(cluster, gateway) as following, client_of(following) as client:
        assert client.responses.retrieve(first.id) == first
        client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
        ids = cluster.head.requests()[-1].ids
        assert "one" in tiny_tokenizer().decode(ids, skip_special=False)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(secret.id)
        client.responses.delete(first.id)
        path = following.folder / "responses" / path.name
        wait_until(lambda: not path.exists(), "the end of the file")


def test_journal_is_private_and_never_holds_what_is_not_to_be_stored(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    cluster.head.script = lambda _: say("hello")
    url = f"{gateway.url}/v1"
    plain = {"model": MODEL, "messages": USER}
    hidden = [
        ("chat/completions", plain, {}),
        ("chat/completions", {**plain, "store": False}, {"idempotency-key": "chat"}),
        ("responses", {"model": MODEL, "input": "x", "store": False}, {"idempotency-key": "resp"}),
    ]
    for path, body, headers in hidden:
        assert httpx.post(f"{url}/{path}", json=body, headers=headers).is_success
    assert post(gateway).is_success
    wait_until(lambda: '"end"' in journal(gateway), "a file")
    [path] = (gateway.folder / "journal").glob("*.run")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_with_a_journal_in_memory_nothing_is_written(cluster: ScriptedCluster) -> None:
    cluster.head.script = lambda _: say("hello")
    with running_gateway(cluster, journal="memory") as gateway:
        assert [post(gateway).status_code for _ in range(2)] == [200, 200]
        body = {"model": MODEL, "input": "x"}
        assert httpx.post(f"{gateway.url}/v1/responses", json=body).is_success
        assert not [x for x in gateway.folder.rglob("*") if x.suffix in (".run", ".json")]
    assert len(cluster.head.requests()) == 2


def test_damaged_files_cost_only_what_they_held(
    gateway: GatewayThread, cluster: ScriptedCluster
) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": MODEL, "messages": USER},
            headers=KEY,
            timeout=0.3,
        )
    wait_for_tokens(gateway)

    def damage(state: Path) -> None:
        [path] = (state / "journal").glob("*.run")
        content = path.read_bytes()
        path.write_bytes(content[:-7])
        for name, damaged in (("a", b""), ("b", b"\0" * 99), ("c", content[9:])):
            (path.parent / f"run_{name}.run").write_bytes(damaged)
        (state / "responses" / f"resp_{'0' * 32}.json").write_bytes(content)

    with killed(cluster, gateway, damage) as following:
        whole = post(following).json()
        assert whole["choices"][0]["message"]["content"] == REPLY
        left = [x.name for x in (following.folder / "journal").glob("run_?.run")]
        assert left == []
        gone = httpx.get(f"{following.url}/v1/responses/resp_{'0' * 32}")
        assert gone.status_code == 404


def test_ended_run_is_forgotten_after_its_time(cluster: ScriptedCluster) -> None:
    cluster.head.script = lambda _: say("hello")
    with running_gateway(cluster, journal_keep_s=0.5) as gateway:
        post(gateway)
        wait_until(lambda: journal(gateway), "a file")
        wait_until(lambda: not journal(gateway), "the end of the file")
        post(gateway)
    assert len(cluster.head.requests()) == 2


def test_killed_process_leaves_its_runs_to_the_next_one(
    cluster: ScriptedCluster, tmp_path: Path
) -> None:
    port = free_port()
    lend_scripted_keys(tmp_path)
    environment = {
        "POMONA_NODE": "near",
        "POMONA_GATEWAY_PORT": str(port),
        "POMONA_CONTROL_PUBLISH": cluster.publish,
        "POMONA_CONTROL_SUBSCRIBE": cluster.subscribe,
        "POMONA_STATE_DIR": str(tmp_path),
    }
    body = {"model": MODEL, "messages": USER}
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    with ServiceProcess("gateway", tmp_path / "gateway.log", environment) as process:
        wait_until(is_ready, "readiness")
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{url}/v1/chat/completions", json=body, headers=KEY, timeout=1)
        process.kill()
        process.start()
        wait_until(is_ready, "readiness")
        whole = httpx.post(f"{url}/v1/chat/completions", json=body, headers=KEY, timeout=60)
        assert whole.json()["choices"][0]["message"]["content"] == REPLY
        assert process.stop() == 0
        assert "Traceback" not in process.logged()
        assert REPLY not in process.logged()


def test_successor_goes_on_with_what_nobody_reads_while_the_other_finishes_its_stream(
    cluster: ScriptedCluster, tmp_path: Path
) -> None:
    cluster.head.script = lambda _: Script(ids=IDS, end=end_id(), step_s=1.0)
    old = GatewayThread(cluster, state_dir=tmp_path / "state", drain_deadline_s=60.0)
    old.ready()
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(post(old, stream=True).text))
    with client_of(old) as client:
        made = client.responses.create(model=MODEL, input="hi", background=True)
    reader.start()
    wait_until(lambda: len(cluster.head.requests()) == 2, "two running requests")
    cluster.head.script = lambda _: slow()
    wait_for_tokens(old)
    old.stop()
    following = {"state_dir": tmp_path / "state", **FAST}
    with running_gateway(cluster, **following) as successor, client_of(successor) as client:

        def is_complete() -> bool:
            return client.responses.retrieve(made.id).status == "completed"

        wait_until(is_complete, "the whole response")
        assert reader.is_alive()
        assert client.responses.retrieve(made.id).output_text == REPLY
        old.stop_at_once()
        reader.join(30)
        assert "shut down before the reply" in read[0]
        old.join()
