"""Runs README's first commands as a new user would: ``make up``, a question, Ctrl-C."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import psutil

ROOT = Path(__file__).parents[1]
READY_S = 300.0
STOP_S = 60.0
ANSWER = "The capital of France is Paris."
LAYERS = 30
SERVICES = 6
PORTS_USED = (0, 1, 2, 3, 10, 11, 12, 13, 14)


def main() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as state:
        started_at = time.monotonic()
        cluster = subprocess.Popen(
            ["make", "up", f"ARGS=--port {port}"],
            cwd=ROOT,
            env={**os.environ, "POMONA_STATE_DIR": state},
            start_new_session=True,
        )
        try:
            wait_until_ready(url, cluster)
            print(f"==> ready after {time.monotonic() - started_at:.1f} s")
            check_answer(url)
            check_status(port)
            if len(process_tree(cluster.pid)) < SERVICES:
                fail("the services are not child processes of make up")
        finally:
            processes = process_tree(cluster.pid)
            # A terminal's Ctrl-C also reaches make and its children.
            os.killpg(cluster.pid, signal.SIGINT)
            cluster.wait(STOP_S)
    check_nothing_left(port, processes)
    print("==> all is well")


def fail(what: str) -> NoReturn:
    sys.exit(f"==> FAILED: {what}")


def free_port() -> int:
    for first in range(23000, 30000, 100):
        if all(is_free(first + offset) for offset in PORTS_USED):
            return first
    fail("no block of free ports")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def request(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    message = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(message, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def wait_until_ready(url: str, cluster: subprocess.Popen[bytes]) -> None:
    ends_at = time.monotonic() + READY_S
    while time.monotonic() < ends_at:
        if cluster.poll() is not None:
            fail(f"make up exited with code {cluster.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except (OSError, urllib.error.URLError, http.client.HTTPException):
            time.sleep(0.2)
    fail(f"not ready within {READY_S:g} s")


def check_answer(url: str) -> None:
    answer = request(
        f"{url}/v1/chat/completions",
        {
            "model": "SmolLM2-135M-Instruct",
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "temperature": 0,
        },
    )
    text = answer["choices"][0]["message"]["content"]
    print(f"==> {text}")
    if text != ANSWER:
        fail(f"the answer is {text!r}, not {ANSWER!r}")


def check_status(port: int) -> None:
    status = subprocess.run(
        [ROOT / ".venv/bin/python", "-I", "-m", "pomona_ops", "status", "--json",
         "--port", str(port)],
        capture_output=True,
        check=False,
        timeout=60,
    )  # fmt: skip
    if status.returncode != 0:
        fail(f"pomona status exited with code {status.returncode}: {status.stdout!r} {status.stderr!r}")
    (pipeline,) = json.loads(status.stdout)["pipelines"]
    stages = pipeline["stages"]
    layers = [layer for stage in stages for layer in range(stage["start"], stage["stop"])]
    for stage in stages:
        print(
            f"==> layers [{stage['start']}, {stage['stop']}) in process {stage['pid']}: "
            f"{stage['loaded_bytes'] / 1e6:.0f} MB of weights, "
            f"{stage['resident_bytes'] / 1e6:.0f} MB resident"
        )
    if len({stage["pid"] for stage in stages}) != 2 or layers != list(range(LAYERS)):
        fail(f"expected two stages with {LAYERS} layers together: {stages}")


def check_nothing_left(port: int, processes: list[psutil.Process]) -> None:
    taken = [port + offset for offset in PORTS_USED if not is_free(port + offset)]
    if taken:
        fail(f"ports still taken: {taken}")
    _, left = psutil.wait_procs(processes, timeout=5)
    if left:
        fail(f"processes left behind: {left}")


def process_tree(pid: int) -> list[psutil.Process]:
    """Returns a process and its descendants."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main()
