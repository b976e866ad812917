"""The lock of a state folder tells a killed `up` from a running one and from a regular end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from pomona_ops.up.lock import up_lock, was_killed

HOLDS = """
import sys, time
from pathlib import Path
from pomona_ops.up.lock import up_lock
with up_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_only_a_killed_up_leaves_its_lock_behind(tmp_path: Path) -> None:
    assert not was_killed(tmp_path)
    with up_lock(tmp_path):
        assert (tmp_path / "up.lock").exists()
    assert not was_killed(tmp_path)

    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert not was_killed(tmp_path), "it runs"
        with up_lock(tmp_path):
            pass
        assert not was_killed(tmp_path), "it runs still"
        holder.send_signal(signal.SIGKILL)
    assert was_killed(tmp_path)
    with up_lock(tmp_path):
        assert not was_killed(tmp_path)
