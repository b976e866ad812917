"""``pomona up``, ``status`` and ``chat`` with a real cluster and the embedded model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from openai import APIError, OpenAI
from openai.types.chat import ChatCompletionChunk

from pomona.service import EXIT_CONFIGURATION
from pomona_ops.cluster.ports import ClusterPorts, is_free
from support.clusters import ANSWER, MODEL, QUESTION, STOP_S, Cluster, run_pomona
from support.ports import free_ports
from support.waiting import wait_until

LAYERS = 30


def test_the_default_model_answers(cluster: Cluster) -> None:
    assert cluster.chat() == ANSWER


def test_the_openai_client_streams_the_same_answer(cluster: Cluster) -> None:
    with OpenAI(base_url=f"{cluster.url}/v1", api_key="none") as client:
        (model,) = client.models.list().data
        assert model.id == MODEL
        with client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            stream=True,
        ) as stream:
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 2


def test_each_of_two_processes_holds_part_of_the_layers_and_weights(cluster: Cluster) -> None:
    cluster.chat()
    report = cluster.status()
    (pipeline,) = report["pipelines"]
    stages = pipeline["stages"]
    assert (pipeline["model"], pipeline["state"], pipeline["layer_count"]) == (
        MODEL, "active", LAYERS,
    )  # fmt: skip
    layers = [layer for stage in stages for layer in range(stage["start"], stage["stop"])]
    assert layers == list(range(LAYERS))
    assert len({stage["pid"] for stage in stages}) == len(stages) == 2
    assert os.getpid() not in {stage["pid"] for stage in stages}
    loaded = [stage["loaded_bytes"] for stage in stages]
    assert all(0 < part < 0.75 * sum(loaded) for part in loaded)


def test_status_of_a_serving_cluster_exits_with_0(cluster: Cluster) -> None:
    cluster.chat()
    port = str(cluster.ports.first)
    status = run_pomona("status", "--port", port)
    assert status.returncode == 0, status.stdout + status.stderr
    assert "serving" in status.stdout
    assert MODEL in status.stdout
    services = {service["service"] for service in cluster.status()["services"]}
    assert services == {"discovery", "planner", "stage_worker", "gateway", "health_watcher"}


def test_every_service_serves_metrics_on_its_port(cluster: Cluster) -> None:
    with cluster.client() as client:
        ports = [port for use, port in cluster.ports.by_use(2).items() if "metrics" in use]
        for port in [cluster.ports.gateway, *ports]:
            answer = client.get(f"http://127.0.0.1:{port}/metrics").raise_for_status()
            assert "# TYPE" in answer.text


def test_every_port_but_the_gateways_is_below_those_of_clients(cluster: Cluster) -> None:
    listening = {
        connection.laddr.port
        for process in cluster.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert cluster.ports.gateway in listening
    assert len(listening) > 10
    assert not [x for x in listening - {cluster.ports.gateway} if x >= 32768]


def test_clients_wait_while_the_gateway_is_restarted(cluster: Cluster) -> None:
    pid = cluster.pids()["gateway"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), "the gateway's end")
    with cluster.client() as client:
        assert client.get("/health").is_success
    cluster.wait_ready()
    assert cluster.chat() == ANSWER


def test_every_line_of_the_logs_is_json(cluster: Cluster) -> None:
    logs = sorted((cluster.output_path.parent / "state" / "logs").glob("*.log"))
    assert len(logs) >= 6
    for log in logs:
        for line in log.read_text().splitlines():
            assert line.startswith("{"), f"{log.name}: {line}"
            assert json.loads(line)["event"]


def test_a_killed_up_leaves_its_ports_to_the_next_one(tmp_path: Path) -> None:
    first = Cluster.start(tmp_path)
    try:
        wait_until(lambda: len(first.taken_ports()) > 3, "some services listen")
        first.process.kill()
        first.process.wait()
        second = Cluster.start(tmp_path, ports=first.ports)
        try:
            wait_until(lambda: "started, process" in second.output, "the second one starts")
            assert second.stop() == 0
        finally:
            second.destroy()
    finally:
        first.destroy()


def test_the_head_counts_the_tokens_of_its_steps_under_vllms_metric_names(cluster: Cluster) -> None:
    ports = [cluster.ports.stage_worker_metrics(index) for index in range(cluster.stages)]
    with cluster.client() as client:

        def metric(name: str) -> float:
            pages = [client.get(f"http://127.0.0.1:{port}/metrics").text for port in ports]
            lines = "".join(pages).splitlines()
            label = f'{name}{{model_name="{MODEL}"}} '
            [value] = (x.removeprefix(label) for x in lines if x.startswith(label))
            return float(value)

        def tokens() -> float:
            return metric("pomona_iteration_tokens_total_sum")

        before = tokens()
        body = {"model": MODEL, "prompt": "One token after another", "max_tokens": 9}
        used = client.post("/v1/completions", json=body | {"ignore_eos": True}).json()["usage"]
        assert used["completion_tokens"] == 9
        cached = used["prompt_tokens_details"]["cached_tokens"]
        # The last token is not decoded.
        expected = before + used["prompt_tokens"] - cached + 9 - 1
        wait_until(lambda: tokens() == expected, f"{expected} tokens, not {tokens()}")
        assert metric("pomona_num_preemptions_total") == 0


@pytest.mark.parametrize("piped", [False, True])
def test_chat_answers_an_argument_or_standard_input(cluster: Cluster, piped: bool) -> None:
    arguments = ["chat", "--port", str(cluster.ports.first), "--temperature", "0"]
    arguments += [] if piped else [QUESTION]
    done = run_pomona(*arguments, stdin=QUESTION if piped else None)
    assert (done.returncode, done.stdout.strip()) == (0, ANSWER), done.stderr


def test_chat_prints_the_gateways_error(cluster: Cluster) -> None:
    done = run_pomona("chat", "--port", str(cluster.ports.first), "--model", "nobody", "hi")
    assert done.returncode == 1
    assert "nobody" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_cluster_on_the_same_ports_is_refused_before_it_starts(
    cluster: Cluster, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    done = run_pomona(
        "up", "--port", str(cluster.ports.first), POMONA_STATE_DIR=str(state)
    )  # fmt: skip
    assert done.returncode == EXIT_CONFIGURATION
    assert str(cluster.ports.first) in done.stderr
    assert "--port" in done.stderr
    assert not state.exists()
    assert cluster.chat() == ANSWER


def test_the_output_reports_each_phase_of_the_start(cluster: Cluster) -> None:
    output = cluster.output
    for expected in ("discovery       started", "holds layers [", "is active", "ready after"):
        assert expected in output
    assert f"{cluster.url}/v1" in output
    assert "Traceback" not in output


def test_ctrl_c_lets_a_running_reply_finish(tmp_path: Path) -> None:
    cluster = Cluster.start(tmp_path)
    try:
        cluster.wait_ready()
        with OpenAI(base_url=f"{cluster.url}/v1", api_key="none") as client:
            chunks = _story(client, max_tokens=60)
            next(chunks)
            cluster.process.send_signal(signal.SIGINT)
            reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
        assert reasons[-1] == "length"
        assert cluster.process.wait(STOP_S) == 0, cluster.output
    finally:
        cluster.destroy()


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    cluster = Cluster.start(
        tmp_path, variables={"POMONA_GATEWAY_DRAIN_DEADLINE_S": "600"}
    )  # fmt: skip
    try:
        cluster.wait_ready()
        with OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
            chunks = _story(client, max_tokens=4000)
            next(chunks)
            cluster.process.send_signal(signal.SIGINT)
            wait_until(lambda: "draining" in cluster.output, "it drains", STOP_S)
            assert cluster.stop() == 0, cluster.output
            assert "stopping at once" in cluster.output
            # The gateway was killed during its reply, and the client gets an error.
            with pytest.raises((httpx.HTTPError, APIError)):
                for _ in chunks:
                    pass
    finally:
        cluster.destroy()


def _story(client: OpenAI, max_tokens: int) -> Iterator[ChatCompletionChunk]:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me a long story about a fox."}],
        temperature=0,
        max_tokens=max_tokens,
        stream=True,
    )
    return iter(stream)


def test_all_services_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    cluster = Cluster.start(tmp_path)
    try:
        cluster.wait_ready()
        # The supervisor, six services, three standbys, and the gateway's process for templates.
        wait_until(lambda: len(cluster.processes()) >= 11, "all processes run")
        processes = cluster.processes()
        cluster.process.kill()
        cluster.process.wait(60)
        wait_until(lambda: not any(p.is_running() for p in processes[1:]), "the services ended")
        assert not cluster.taken_ports()
    finally:
        cluster.destroy()


START = """
import sys, time
from pathlib import Path
from support.clusters import Cluster
cluster = Cluster.start(Path(sys.argv[1]))
print(cluster.ports.first, flush=True)
time.sleep(600)
"""


def test_all_services_end_when_the_tests_are_killed(tmp_path: Path) -> None:
    """SIGTERM leaves pytest no time to end the cluster itself."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", START, str(tmp_path)], env=environment, stdout=subprocess.PIPE
    ) as tests:
        assert tests.stdout is not None
        used = ClusterPorts(int(tests.stdout.readline())).by_use(2).values()
        wait_until(lambda: not is_free(next(iter(used))), "the cluster listens")
        tests.terminate()
    wait_until(lambda: all(is_free(port) for port in used), "the cluster ended")


def test_ctrl_c_during_the_start_leaves_no_process(tmp_path: Path) -> None:
    cluster = Cluster.start(tmp_path)
    try:
        wait_until(lambda: "health_watcher  started" in cluster.output, "the services started")
        assert cluster.stop() == 0, cluster.output
    finally:
        cluster.destroy()


def test_invalid_arguments_are_reported_before_anything_starts(tmp_path: Path) -> None:
    no_model = tmp_path / "model.gguf"
    no_model.write_text("not a model")
    cases = {
        "/nowhere/model.gguf": "no model at /nowhere/model.gguf",
        str(no_model): "is not a GGUF file",
        "--stages=0": "choose 1 to 64",
        "--stages=65": "choose 1 to 64",
        "--port=80": "choose one from 1024",
    }
    for argument, message in cases.items():
        done = run_pomona("up", argument, POMONA_STATE_DIR=str(tmp_path / "state"))
        assert done.returncode == EXIT_CONFIGURATION, argument
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()


def test_an_invalid_setting_ends_the_run_and_is_named(tmp_path: Path) -> None:
    cluster = Cluster.start(tmp_path, variables={"POMONA_METRICS_HOST": "not-an-address.invalid"})
    try:
        assert cluster.process.wait(60) == EXIT_CONFIGURATION, cluster.output
        assert "change POMONA_METRICS_HOST" in cluster.output
        assert not cluster.taken_ports()
    finally:
        cluster.destroy()


def test_status_and_chat_exit_with_2_without_a_cluster() -> None:
    port = str(free_ports().first)
    for arguments in (["status"], ["status", "--json"], ["status", "--watch"], ["chat", "hi"]):
        done = run_pomona(*arguments, "--port", port)
        assert done.returncode == 2, arguments
        assert done.stdout + done.stderr, arguments
        assert "Traceback" not in done.stderr
