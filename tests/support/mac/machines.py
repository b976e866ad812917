"""Puts a test on a Mac made of recordings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pomona import host

FOLDER = Path(__file__).parent

STUDIO = {
    "sysctl": "machdep.cpu.brand_string: Apple M4 Max\nhw.logicalcpu: 16\n"
    "hw.memsize: 137438953472\niogpu.wired_limit_mb: 0\nhw.model: Mac16,9\n",
    "sw_vers": "26.2\n",
    "scutil --get LocalHostName": "Studio-von-Zoe\n",
    "fdesetup": "FileVault is Off.\n",
    "socketfilterfw": "Firewall is disabled. (State = 0)\n",
    "defaults": "{\n    AutomaticDownload = 1;\n    AutomaticallyInstallMacOSUpdates = 1;\n}\n",
}
"""Answers of commands without a recording, in the form of their manual pages."""


def recorded(name: str) -> str:
    """Returns a recorded answer."""
    return (FOLDER / "recorded" / name).read_text()


def be_a_mac(monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Makes this process, and its children, run on a Mac.

    Args:
        files: name of the recording that a command prints, by command.
    """
    answers = STUDIO | {command: recorded(name) for command, name in files.items()}
    answer_as(monkeypatch, answers)


def answer_as(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> None:
    """Makes this process, and its children, run on a Mac whose commands print these answers."""
    monkeypatch.setattr(host, "SYSTEM", "darwin")
    monkeypatch.setattr(host, "MACHINE", "arm64")
    monkeypatch.setenv("PATH", f"{FOLDER / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("MAC_ANSWERS", json.dumps(answers))
