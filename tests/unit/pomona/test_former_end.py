"""How the former process ended is known from `up`, from systemd and from launchd."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pomona.exit_status import EXIT_GPU_FAILED, EXIT_STALLED, LAUNCHD_VARIABLE
from pomona.former_end import FORMER_END_VARIABLE, exit_cause, former_end

PRINTED = """system/com.pomona.gateway = {{
\tactive count = 1
\tpath = /Library/LaunchDaemons/com.pomona.gateway.plist
\ttype = LaunchDaemon
\tstate = running

\tprogram = /opt/pomona/current/bin/python
\tinherited environment = {{
\t\tPATH => /usr/bin:/bin:/usr/sbin:/sbin
\t}}

\tdomain = system
\tminimum runtime = 10
\texit timeout = 35
\truns = 3
\tpid = 812
\timmediate reason = inefficient
\tforks = 4
\texecs = 1
\tinitialized = 1
\ttrampolined = 1
{end}
\tspawn type = interactive (4)
\tproperties = keepalive | runatload | inferred program
}}
"""
"""An answer of ``launchctl print`` for a job that runs again, as on macOS 14 to 26."""


@pytest.mark.parametrize(
    ("code", "out_of_memory", "expected"),
    [
        (3, False, "exited with code 3"),
        (-signal.SIGKILL, False, "was killed by SIGKILL"),
        (-signal.SIGKILL, True, "was killed by SIGKILL, as the machine was out of memory"),
        (-signal.SIGSEGV, True, "was killed by SIGSEGV"),
        (-99, False, "was killed by signal 99"),
        (EXIT_STALLED, False, "ended itself (code 79): a thread made no progress"),
        (EXIT_GPU_FAILED, False, "ended itself (code 80): the GPU failed"),
    ],
)
def test_a_cause_is_in_words(code: int, out_of_memory: bool, expected: str) -> None:
    assert exit_cause(code, out_of_memory) == expected


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("\tlast exit code = (never exited)", ""),
        ("\tlast exit code = 0", ""),
        ("\tlast exit code = 1", "exited with code 1"),
        ("\tlast exit code = 78: EX_CONFIG", "exited with code 78"),
        ("\tlast exit code = 79", "ended itself (code 79): a thread made no progress"),
        ("\tlast exit code = 143", "was ended by SIGTERM"),
        ("\tlast terminating signal = Killed: 9", "was killed by SIGKILL"),
        ("\tlast terminating signal = Segmentation fault: 11", "was killed by SIGSEGV"),
        (
            "\tlast terminating signal = Killed: 9\n\tlast exit reason = JETSAM_HIGHWATER",
            "was killed by SIGKILL, as the machine was out of memory",
        ),
        ("", ""),
        ("\tno such line", ""),
    ],
)
def test_launchd_tells_of_the_former_process(end: str, expected: str) -> None:
    asked: list[str] = []

    def ask(label: str) -> str:
        asked.append(label)
        return PRINTED.format(end=end)

    assert former_end({LAUNCHD_VARIABLE: "com.pomona.gateway"}, ask) == expected
    assert asked == ["com.pomona.gateway"]


def test_only_a_job_of_launchd_asks_it() -> None:
    def ask(label: str) -> str:
        raise AssertionError(label)

    assert former_end({}, ask) == ""
    assert former_end({LAUNCHD_VARIABLE: "com.apple.Terminal"}, ask) == ""
    said = {LAUNCHD_VARIABLE: "com.pomona.gateway", FORMER_END_VARIABLE: "was killed by SIGKILL"}
    assert former_end(said, ask) == "was killed by SIGKILL"


def test_launchctl_is_asked_for_a_daemon_then_for_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "launchctl"
    command.write_text(
        f"""#!/bin/sh
[ "$1 $2" = "print gui/{os.getuid()}/com.pomona.planner" ] || exit 113
echo "	last terminating signal = Abort trap: 6"
"""
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert former_end({LAUNCHD_VARIABLE: "com.pomona.planner"}) == "was killed by SIGABRT"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("success exited 0", ""),
        ("success killed TERM", ""),
        ("exit-code exited 79", "ended itself (code 79): a thread made no progress"),
        ("signal killed KILL", "was killed by SIGKILL"),
        ("core-dump dumped SEGV", "was killed by SIGSEGV"),
        ("oom-kill killed KILL", "was killed by SIGKILL, as the machine was out of memory"),
        ("signal killed RTMIN+3", "was killed by SIGRTMIN+3"),
        ("", ""),
    ],
)
def test_systemd_leaves_words_for_the_next_process(said: str, expected: str) -> None:
    assert former_end({FORMER_END_VARIABLE: said}) == expected
