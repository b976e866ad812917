"""Finds out how the process ended that this one replaces: exit code, signal, or lack of memory.

``pomona up`` says it in words. A systemd unit leaves ``$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS``
(``systemd.exec(5)``). launchd is asked: ``launchctl print`` has one of the lines
``last exit code = 79``, ``last exit code = 78: EX_CONFIG``, ``last exit code = (never exited)`` and
``last terminating signal = Killed: 9``, and ``last exit reason = JETSAM_...`` when the system took
the memory back.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from typing import Final

from pomona.exit_status import (
    EXIT_GPU_FAILED,
    EXIT_STALLED,
    EXIT_TERMINATED,
    LAUNCHD_LABEL,
    LAUNCHD_VARIABLE,
)

FORMER_END_VARIABLE: Final = "POMONA_FORMER_END"
"""Variable in which a supervisor says how the process before this one ended."""
MAX_FORMER_END: Final = 512
ANSWER_S: Final = 3.0
"""Seconds that launchd has to answer; without an answer the cause is not known."""
_CAUSES: Final = {
    EXIT_STALLED: "a thread made no progress",
    EXIT_GPU_FAILED: "the GPU failed",
}
_SYSTEMD: Final = re.compile(
    r"(?P<result>[a-z-]+) (?P<code>exited|killed|dumped) (?P<status>[A-Z0-9+]+)"
)
_LAUNCHD: Final = {
    "code": re.compile(r"^\s*last exit code = (\d+)", re.MULTILINE),
    "signal": re.compile(r"^\s*last terminating signal = .*: (\d+)\s*$", re.MULTILINE),
    "reason": re.compile(r"^\s*last exit reason = (\S+)", re.MULTILINE),
}


def former_end(
    environment: Mapping[str, str] = os.environ, ask: Callable[[str], str] | None = None
) -> str:
    """Returns how the former process ended, in words; empty when it ended well or nobody knows.

    Args:
        ask: returns what ``launchctl print`` says of a label.
    """
    said = environment.get(FORMER_END_VARIABLE, "").strip()
    label = environment.get(LAUNCHD_VARIABLE, "")
    if not said and label.startswith(LAUNCHD_LABEL):
        return _from_launchd((ask or _ask_launchd)(label))
    return _from_systemd(said)[:MAX_FORMER_END]


def exit_cause(code: int, out_of_memory: bool = False) -> str:
    """Describes an exit code; a negative one is a signal.

    Args:
        out_of_memory: the kernel killed a process for lack of memory meanwhile.
    """
    if code in _CAUSES:
        return f"ended itself (code {code}): {_CAUSES[code]}"
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    reason = ", as the machine was out of memory" if out_of_memory and name == "SIGKILL" else ""
    return f"was killed by {name}{reason}"


def _from_systemd(said: str) -> str:
    """Puts systemd's words into ours. Other text is a supervisor's own."""
    found = _SYSTEMD.fullmatch(said)
    if found is None:
        return said
    if found["result"] == "success":
        return ""
    if found["code"] == "exited":
        return exit_cause(int(found["status"])) if found["status"].isdecimal() else ""
    try:
        number = signal.Signals[f"SIG{found['status']}"].value
    except KeyError:
        return f"was killed by SIG{found['status']}"
    return exit_cause(-number, found["result"] == "oom-kill")


def _from_launchd(said: str) -> str:
    by_signal, by_code = _LAUNCHD["signal"].search(said), _LAUNCHD["code"].search(said)
    reason = _LAUNCHD["reason"].search(said)
    if by_signal is not None:
        out_of_memory = reason is not None and "JETSAM" in reason[1].upper()
        return exit_cause(-int(by_signal[1]), out_of_memory)
    if by_code is None or int(by_code[1]) == 0:
        return ""
    if int(by_code[1]) == EXIT_TERMINATED:
        return "was ended by SIGTERM"
    return exit_cause(int(by_code[1]))


def _ask_launchd(label: str) -> str:
    """Asks for the job of a daemon, then for that of an agent. Empty without an answer."""
    command = shutil.which("launchctl") or "/bin/launchctl"
    for domain in ("system", f"gui/{os.getuid()}"):
        try:
            done = subprocess.run(
                [command, "print", f"{domain}/{label}"],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return ""
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
    return ""
