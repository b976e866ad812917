"""Kills for lack of memory are noticed."""

from __future__ import annotations

from pathlib import Path

from pomona_ops.up.out_of_memory import OutOfMemoryKills


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
