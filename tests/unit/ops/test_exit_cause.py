"""Exit codes and signals are described in words."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pomona.service import EXIT_GPU_FAILED, EXIT_STALLED
from pomona_ops.up.exit_cause import OutOfMemoryKills, exit_cause


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


def test_a_kill_for_lack_of_memory_is_noticed_in_either_count(tmp_path: Path) -> None:
    system, group = tmp_path / "vmstat", tmp_path / "memory.events"
    system.write_text("nr_free_pages 5\noom_kill 2\n")
    kills = OutOfMemoryKills((system, group))
    assert not kills.has_killed()
    group.write_text("low 0\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert kills.has_killed()
    again = OutOfMemoryKills((system, group))
    assert not again.has_killed()
    system.write_text("oom_kill 3\n")
    assert again.has_killed()
