"""Random faults for minutes: every text is the undisturbed one, and nothing is left behind.

``make chaos SEED=...`` repeats a run.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from support.chaos.random_faults import play
from support.chaos.two_nodes import two_nodes

SECONDS = float(os.environ.get("CHAOS_SECONDS", "600"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.randrange(1, 10**6)


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 1200)
def test_random_faults_cost_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def report(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    report(f"\nseed {SEED}; `make chaos SEED={SEED} SECONDS={SECONDS:g}` repeats it")
    with two_nodes(tmp_path, "z") as cluster:
        wrong = play(cluster, SEED, SECONDS, report)
    assert not wrong, f"seed {SEED}: " + "\n".join(wrong)
