"""A machine whose address changes while replies run: they go on at the new one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.chaos.streams import ended, started, wait_for_more
from support.chaos.two_nodes import two_nodes

STREAMS = 4
TOKENS = 160
MOVED = "10.79.0.77"
NEXT_S = 30.0


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_replies_go_on_at_the_new_address(tmp_path: Path) -> None:
    with two_nodes(tmp_path, "m", listens_everywhere=True) as cluster:
        undisturbed = ended(started([cluster.stream(n, TOKENS) for n in range(STREAMS)]))
        running = started([cluster.stream(n, TOKENS) for n in range(STREAMS)], 8)
        cluster.move("w", MOVED)
        moved_at = time.monotonic()
        wait_for_more([stream for stream in running if stream.is_alive()], NEXT_S)
        print(f"more text {time.monotonic() - moved_at:.1f} s after the move")
        assert ended(running) == undisturbed
        cluster.wait_ready()
