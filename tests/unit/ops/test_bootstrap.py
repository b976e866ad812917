"""The scripts that install Pomona, with a POSIX shell, on machines made of a few programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted((ROOT / "ops").glob("*.sh"))
TOOLS = ("sh", "dirname", "awk", "sort", "head", "rm", "mkdir", "cat", "chmod", "sed", "ln", "env")
PYTHON = """#!/bin/sh
# Answers as Python {version} on {machine}; its pip makes a uv that records its arguments.
case "$*" in
    *--version*) echo "Python {version}" ;;
    *version_info*"(3, 8)"*) exit {older_than_8} ;;
    *version_info*"(3, 11)"*) exit {older_than_11} ;;
    *platform.machine*) [ {machine} = arm64 ] ;;
    *"-m pip install"*) echo "pip $*" >> "$CALLS"; mkdir -p .tools/uv/bin
        cp "$UV" .tools/uv/bin/uv; chmod +x .tools/uv/bin/uv ;;
    *) exit 1 ;;
esac
"""
UV = """#!/bin/sh
if [ "$1" = --version ]; then echo "uv 0.13.9"; exit 0; fi
echo "uv $*" >> "$CALLS"
"""


@dataclass
class MadeUpMachine:
    """A clone, and a PATH with nothing but the test's files."""

    folder: Path
    path: Path
    calls: Path

    def add(self, name: str, script: str) -> None:
        file = self.path / name
        file.write_text(script)
        file.chmod(0o755)

    def add_python(self, name: str, version: str, machine: str = "arm64") -> None:
        minor = int(version.split(".")[1])
        script = PYTHON.format(
            version=version, machine=machine,
            older_than_8=int(minor < 8), older_than_11=int(minor < 11),
        )  # fmt: skip
        self.add(name, script)

    def bootstrap(self) -> tuple[int, str, list[str]]:
        """Returns the exit status, the output, and the calls of pip and uv."""
        done = subprocess.run(
            ["/bin/sh", str(self.folder / "ops" / "bootstrap.sh")],
            env={"PATH": str(self.path), "CALLS": str(self.calls), "UV": str(self.path / "new-uv")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return done.returncode, done.stderr, calls


def make(tmp_path: Path, system: str, machine: str = "arm64", macos: str = "26.2") -> MadeUpMachine:
    folder, path = tmp_path / "clone", tmp_path / "bin"
    (folder / "ops").mkdir(parents=True)
    path.mkdir()
    for script in SCRIPTS:
        shutil.copy(script, folder / "ops")
    for tool in (*TOOLS, "cp"):
        (path / tool).symlink_to(shutil.which(tool) or tool)
    made = MadeUpMachine(folder, path, tmp_path / "calls")
    made.add("uname", f"#!/bin/sh\ncase $1 in -s) echo {system} ;; -m) echo {machine} ;; esac\n")
    made.add("sysctl", "#!/bin/sh\necho 1\n" if system == "Darwin" else "#!/bin/sh\nexit 1\n")
    made.add("sw_vers", f"#!/bin/sh\necho {macos}\n")
    made.add("new-uv", UV)
    return made


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_posix(script: Path) -> None:
    shell = shutil.which("dash") or "/bin/sh"
    assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0
    text = script.read_text()
    for bash in (r"\[\[", r"^\s*local ", r"^\s*function ", r"<\(", r"\$'", r"pipefail"):
        assert not re.search(bash, text, re.MULTILINE), bash


def test_the_python_of_macos_brings_uv_which_brings_its_own(tmp_path: Path) -> None:
    mac = make(tmp_path, "Darwin")
    mac.add_python("python3", "3.9.6")
    code, told, calls = mac.bootstrap()
    assert code == 0, told
    pip, sync = calls
    assert "--platform macosx_11_0_arm64" in pip
    assert sync == "uv sync --frozen --python cpython-3.12-macos-aarch64-none"


def test_a_python_under_rosetta_is_not_used(tmp_path: Path) -> None:
    mac = make(tmp_path, "Darwin", machine="x86_64")
    mac.add_python("python3", "3.12.1", machine="x86_64")
    code, told, calls = mac.bootstrap()
    assert code == 0, told
    assert "--platform macosx_11_0_arm64" in calls[0]
    assert "macos-aarch64" in calls[1]


def test_a_python_for_arm64_is_used(tmp_path: Path) -> None:
    mac = make(tmp_path, "Darwin")
    mac.add_python("python3", "3.9.6")
    mac.add_python("python3.13", "3.13.1")
    code, told, calls = mac.bootstrap()
    assert code == 0, told
    assert calls[1].endswith("/bin/python3.13")


def test_uv_of_the_path_is_used_without_any_python(tmp_path: Path) -> None:
    mac = make(tmp_path, "Darwin")
    mac.add("uv", UV)
    code, told, calls = mac.bootstrap()
    assert code == 0, told
    assert calls == ["uv sync --frozen --python cpython-3.12-macos-aarch64-none"]


@pytest.mark.parametrize("version", ["3.8.10", "3.9.2", "3.14.0"])
def test_any_python_brings_uv_on_linux_and_uv_chooses(tmp_path: Path, version: str) -> None:
    linux = make(tmp_path, "Linux", machine="x86_64")
    linux.add_python("python3", version, machine="x86_64")
    code, told, calls = linux.bootstrap()
    assert code == 0, told
    assert "--platform" not in calls[0]
    assert calls[1] == "uv sync --frozen"


@pytest.mark.parametrize(
    ("arm64", "macos", "expected"),
    [
        ("0", "26.2", "an Apple Silicon Mac (arm64) is required; this one is x86_64"),
        ("1", "13.6.1", "macOS 14 or later is required; this Mac has 13.6.1"),
        ("1", "12", "macOS 14 or later is required; this Mac has 12"),
    ],
)
def test_a_mac_that_cannot_run_it_is_told_why(
    tmp_path: Path, arm64: str, macos: str, expected: str
) -> None:
    mac = make(tmp_path, "Darwin", machine="x86_64", macos=macos)
    mac.add("sysctl", f"#!/bin/sh\necho {arm64}\n")
    mac.add_python("python3", "3.12.1")
    code, told, calls = mac.bootstrap()
    assert (code, calls) == (1, [])
    assert expected in told


def test_without_python_and_uv_it_says_what_to_install(tmp_path: Path) -> None:
    code, told, _ = make(tmp_path, "Darwin").bootstrap()
    assert code == 1
    assert "brew install uv" in told


def test_the_makefile_reads_on_make_3_81() -> None:
    """macOS has GNU make 3.81, which lacks what came with 3.82 and 4."""
    text = (ROOT / "Makefile").read_text()
    for newer in (
        r"^\.ONESHELL", r"^\.RECIPEPREFIX", r"^\.SHELLFLAGS", r"^undefine\b", r"^private\b",
        r"!=", r"::=", r"&:", r"\$\(file ", r"\$\(let ", r"\$\(intcmp ", r"^\.WAIT",
    ):  # fmt: skip
        assert not re.search(newer, text, re.MULTILINE), newer
    assert "SHELL := /bin/sh" in text
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "up", "test"],
        cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert "[[" not in line
