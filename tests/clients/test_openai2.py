"""Runs the tests of clients that still need openai 2, against the same cluster.

Their environment is ``openai2/``.
"""

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
UV_VARIABLES = ("VIRTUAL_ENV", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_WORKING_DIR")
"""Variables that would make uv use another project or environment."""

TESTS = (
    "test_openai.py",
    "openai2/test_instructor.py",
    "openai2/test_langchain.py",
    "openai2/test_litellm.py",
)
DEADLINE_S = 240.0


@pytest.fixture(scope="module")
def python() -> Path:
    """Python interpreter of the environment, which is synchronised with its lock file."""
    environment = {name: value for name, value in os.environ.items() if name not in UV_VARIABLES}
    command = [uv.find_uv_bin(), "sync", "--locked", "--quiet", "--project", str(FOLDER)]
    for certificates in ({}, {"UV_SYSTEM_CERTS": "1"}):
        done = subprocess.run(
            [*command, "--python", sys.executable],
            env=environment | certificates,
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
    """Runs all files at the same time. Returns each process and the file of its output."""
    variables = {
        "POMONA_CLIENTS_URL": url,
        "POMONA_DOUBLE_URL": double_url,
        # Otherwise litellm first fetches prices from the internet.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    folder = tmp_path_factory.mktemp("openai2")
    started: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    try:
        for name in TESTS:
            output = folder / f"{Path(name).stem}.txt"
            with output.open("wb") as file:
                process = subprocess.Popen(
                    [python, "-m", "pytest", "-v", "-c", FOLDER / "pyproject.toml", HERE / name],
                    cwd=FOLDER,
                    env=os.environ | variables,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            started[name] = (process, output)
        yield started
    finally:
        for process, _ in started.values():
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", TESTS)
def test_a_file_passes_with_openai_2(
    name: str, running: dict[str, tuple[subprocess.Popen[bytes], Path]]
) -> None:
    process, output = running[name]
    try:
        code = process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        pytest.fail(f"not done after {DEADLINE_S:g} s:\n{output.read_text()}")
    assert code == 0, output.read_text()
