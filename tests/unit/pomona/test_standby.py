"""A standby runs its service when told to, and ends with its supervisor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pomona.standby import STANDBY_VARIABLE, turn_message

WAITS = """
import os
from pomona.standby import wait_for_turn
wait_for_turn()
print("runs", os.environ.get("POMONA_FORMER_END"))
"""


def standby(*, is_started: bool) -> subprocess.CompletedProcess[str]:
    waits, turn = os.pipe()
    if is_started:
        os.write(turn, turn_message({"POMONA_FORMER_END": "was killed\nby SIGKILL"}))
    os.close(turn)
    try:
        return subprocess.run(
            [sys.executable, "-I", "-c", WAITS],
            env=os.environ | {STANDBY_VARIABLE: str(waits)},
            pass_fds=(waits,),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        os.close(waits)


@pytest.mark.parametrize("is_started", [False, True])
def test_a_standby_waits_for_its_turn_or_the_end_of_its_supervisor(is_started: bool) -> None:
    assert standby(is_started=is_started).stdout == (
        "runs was killed by SIGKILL\n" if is_started else ""
    )


def test_any_other_process_does_not_wait() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", WAITS], capture_output=True, check=True)
    assert done.stdout == b"runs None\n"
