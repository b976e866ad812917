"""`pomona launch`: what clients are told, the files written for them, and refusals."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pomona_ops.commands.launch.clients import CLIENTS, Target
from pomona_ops.commands.launch.command import (
    NotLaunchedError,
    check_room,
    choose_model,
    shell_commands,
)
from pomona_ops.commands.launch.file_backup import restore, write_with_backup
from support.ports import free_port

TARGET = Target("http://10.0.0.1:52415", "org/model 7B", 100_000)
SECRET = "pk-secret"


class Models(BaseHTTPRequestHandler):
    """Answers like a gateway's ``/v1/models``."""

    models: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        known = self.headers["authorization"] in (None, f"Bearer {SECRET}")
        body = json.dumps({"data": self.models}).encode()
        self.send_response(200 if known else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def gateway() -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    Models.models = [_model("loading", None, ready=False), _model("Small", 8192), _model("big")]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with a program of each client, which prints its arguments and environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for client in CLIENTS.values():
        path = folder / client.program
        path.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            "print(json.dumps([sys.argv[1:], dict(os.environ)]))\nraise SystemExit(7)\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def _model(name: str, context: int | None = 100_000, ready: bool = True) -> dict[str, Any]:
    return {"id": name, "ready": ready, "context_length": context}


def _launch(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pomona_ops", "launch", *arguments],
        env={"HOME": str(home), "PATH": str(home / "bin"), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", CLIENTS)
def test_a_launch_names_the_gateway_and_the_model(name: str, tmp_path: Path) -> None:
    launch = CLIENTS[name].launch(TARGET, tmp_path)
    told = " ".join([*launch.command, *launch.variables.values()])
    assert TARGET.url in told
    assert TARGET.model in told
    assert launch.key_variables


@pytest.mark.parametrize("name", sorted(set(CLIENTS) - {"open-webui"}))
def test_a_launch_names_the_context_length(name: str, tmp_path: Path) -> None:
    launch = CLIENTS[name].launch(TARGET, tmp_path)
    file = launch.file.content if launch.file else ""
    assert "100000" in " ".join([*launch.command, *launch.variables.values(), file])


def test_codex_gets_toml_values(tmp_path: Path) -> None:
    command = CLIENTS["codex"].launch(TARGET, tmp_path).command
    settings = tomllib.loads("\n".join(command[2::2]))
    assert settings["model"] == TARGET.model
    assert settings["model_providers"]["pomona"]["wire_api"] == "responses"


def test_opencode_gets_its_configuration_as_json(tmp_path: Path) -> None:
    variables = CLIENTS["opencode"].launch(TARGET, tmp_path).variables
    config = json.loads(variables["OPENCODE_CONFIG_CONTENT"])
    limit = config["provider"]["pomona"]["models"][TARGET.model]["limit"]
    assert limit == {"context": 100_000, "output": 25_000}


@pytest.mark.parametrize("name", CLIENTS)
def test_printed_commands_do_the_same_in_a_shell_and_hold_no_key(
    name: str, tmp_path: Path, programs: Path
) -> None:
    launch = CLIENTS[name].launch(TARGET, tmp_path)
    if launch.file is not None:
        launch.file.path.parent.mkdir(exist_ok=True)
    script = shell_commands(launch, ["two words"])
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "POMONA_API_KEY": SECRET},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    arguments, environment = json.loads(done.stdout)
    assert arguments == [*launch.command[1:], "two words"]
    assert environment.items() >= dict(launch.variables).items()
    assert all(environment[variable] == SECRET for variable in launch.key_variables)
    assert SECRET not in script
    if launch.file is not None:
        assert launch.file.path.read_text() == launch.file.content


@pytest.mark.parametrize("earlier", [None, b"", b'{"own": 1} // comment\r\n'])
def test_restore_puts_back_exactly_what_stood_there(tmp_path: Path, earlier: bytes | None) -> None:
    path = tmp_path / "folder" / "settings.json"
    path.parent.mkdir()
    if earlier is not None:
        path.write_bytes(earlier)
        path.chmod(0o600)
    write_with_backup(path, "first")
    write_with_backup(path, "second")
    assert path.read_text() == "second"
    assert restore(path)
    assert (path.read_bytes() if path.exists() else None) == earlier
    assert list(path.parent.iterdir()) == ([path] if earlier is not None else [])
    assert earlier is None or stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not restore(path)
    assert (path.read_bytes() if path.exists() else None) == earlier


@pytest.mark.parametrize(
    ("wanted", "chosen"), [(None, "Small"), ("small", "Small"), ("big", "big")]
)
def test_the_first_ready_model_or_the_named_one_is_chosen(wanted: str | None, chosen: str) -> None:
    models = [_model("loading", None, ready=False), _model("Small"), _model("big")]
    assert choose_model(models, wanted)["id"] == chosen


@pytest.mark.parametrize("wanted", [None, "loading", "other"])
def test_a_model_that_is_missing_or_not_ready_is_refused(wanted: str | None) -> None:
    with pytest.raises(NotLaunchedError, match=r"pomona (status|models)"):
        choose_model([_model("loading", None, ready=False)], wanted)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_context_of_the_prompt_and_a_reply_is_enough(name: str) -> None:
    client = CLIENTS[name]
    check_room(name, client, Target("", "m", client.needed_context))
    with pytest.raises(NotLaunchedError, match=f"{client.needed_context - 1:,} tokens"):
        check_room(name, client, Target("", "m", client.needed_context - 1))


def test_the_client_replaces_the_command(tmp_path: Path, programs: Path, gateway: str) -> None:
    assert programs.parent == tmp_path
    done = _launch(
        tmp_path, "claude", "--url", f"{gateway}/v1/", "--model", "BIG", "--", "-p", "hi",
        POMONA_API_KEY=SECRET, ANTHROPIC_API_KEY="other",
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    arguments, environment = json.loads(done.stdout)
    assert arguments == ["-p", "hi"]
    assert environment["ANTHROPIC_BASE_URL"] == gateway
    assert environment["ANTHROPIC_MODEL"] == "big"
    assert environment["ANTHROPIC_AUTH_TOKEN"] == SECRET
    assert "ANTHROPIC_API_KEY" not in environment


@pytest.mark.slow
@pytest.mark.usefixtures("programs")
def test_a_written_file_is_taken_back(tmp_path: Path, gateway: str) -> None:
    done = _launch(tmp_path, "qwen", "--url", gateway, "--model", "big")
    assert done.returncode == 7, done.stderr
    written = json.loads((tmp_path / ".qwen" / "pomona.json").read_text())
    assert written["model"]["generationConfig"]["contextWindowSize"] == 100_000
    for said in ("took back", "nothing to take back"):
        done = _launch(tmp_path, "qwen", "--restore")
        assert done.returncode == 0
        assert said in done.stdout
    assert list((tmp_path / ".qwen").iterdir()) == []


def test_print_needs_no_client_and_writes_nothing(tmp_path: Path, gateway: str) -> None:
    done = _launch(tmp_path, "qwen", "--url", gateway, "--model", "big", "--print")
    assert done.returncode == 0, done.stderr
    assert "OPENAI_BASE_URL" in done.stdout
    assert shlex.split(done.stdout.splitlines()[-1])[0] == "qwen"
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_is_not_installed_is_said(tmp_path: Path, gateway: str) -> None:
    done = _launch(tmp_path, "codex", "--url", gateway)
    assert done.returncode == 1
    assert "npm install -g @openai/codex" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("programs")
def test_a_model_with_too_little_room_is_said_with_the_numbers(
    tmp_path: Path, gateway: str
) -> None:
    done = _launch(tmp_path, "claude", "--url", gateway)
    assert done.returncode == 1
    assert "12,400 tokens" in done.stderr
    assert "8,192" in done.stderr


@pytest.mark.usefixtures("programs")
def test_a_wrong_key_is_said(tmp_path: Path, gateway: str) -> None:
    done = _launch(tmp_path, "claude", "--url", gateway, POMONA_API_KEY="wrong")
    assert done.returncode == 1
    assert "pomona keys create" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("programs")
def test_a_missing_gateway_is_said(tmp_path: Path) -> None:
    done = _launch(tmp_path, "claude", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "no gateway answers" in done.stderr


def test_an_unknown_client_is_wrong_usage(tmp_path: Path) -> None:
    assert _launch(tmp_path, "cursor").returncode == 2
