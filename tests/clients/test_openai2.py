"""Clients that still need openai 2 run their tests in an environment of their own, ``openai2/``,
against the same cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import uv

HERE = Path(__file__).parent
FOLDER = HERE / "openai2"
FOREIGN = ("VIRTUAL_ENV", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_WORKING_DIR")
"""Variables that would lead uv to another project or environment."""

TESTS = (
    "test_openai.py",
    "openai2/test_instructor.py",
    "openai2/test_langchain.py",
    "openai2/test_litellm.py",
)
WITHIN_S = 240.0


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment, made what its lock says."""
    known = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    command = [uv.find_uv_bin(), "sync", "--locked", "--quiet", "--project", str(FOLDER)]
    for more in ({}, {"UV_SYSTEM_CERTS": "1"}):
        done = subprocess.run(
            [*command, "--python", sys.executable],
            env=known | more,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if done.returncode == 0:
            return FOLDER / ".venv" / "bin" / "python"
    pytest.fail(done.stderr)


@pytest.fixture(scope="module")
def running(
    python: Path, url: str, double_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Generator[dict[str, tuple[subprocess.Popen[bytes], Path]]]:
    """The tests of every file, all at once, as a cluster has many users; and what they say."""
    told = {
        "POMONA_CLIENTS_URL": url,
        "POMONA_DOUBLE_URL": double_url,
        # Without it litellm asks the internet for prices first.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    folder = tmp_path_factory.mktemp("openai2")
    started: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    try:
        for name in TESTS:
            said = folder / f"{Path(name).stem}.txt"
            with said.open("wb") as file:
                process = subprocess.Popen(
                    [python, "-m", "pytest", "-v", "-c", FOLDER / "pyproject.toml", HERE / name],
                    cwd=FOLDER,
                    env=os.environ | told,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            started[name] = (process, said)
        yield started
    finally:
        for process, _ in started.values():
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", TESTS)
def test_with_openai_2(name: str, running: dict[str, tuple[subprocess.Popen[bytes], Path]]) -> None:
    process, said = running[name]
    try:
        code = process.wait(WITHIN_S)
    except subprocess.TimeoutExpired:
        pytest.fail(f"not done after {WITHIN_S:g} s:\n{said.read_text()}")
    assert code == 0, said.read_text()
