"""A step with guesses is as wide as every stage of the pipeline computes exactly."""

from __future__ import annotations

from typing import Any

import pytest

from pomona.messages.control import Beacon, StageStatus, StageWorkerFacts
from pomona_stage_worker.step_width import common_width
from support.node_beacons import PIPELINE, node_beacon


def tail(width: int, **changes: Any) -> Beacon:
    """Returns the beacon of the second worker, whose stage computes ``width`` tokens exactly."""
    stage = PIPELINE.stages[1]
    fields: dict[str, Any] = {
        "model": PIPELINE.model,
        "epoch": PIPELINE.epoch,
        "start": stage.start,
        "stop": stage.stop,
        "state": "ready",
        "max_width": width,
        **changes,
    }
    return node_beacon("w1", StageWorkerFacts("metal", 10, 500, (StageStatus(**fields),)))


@pytest.mark.parametrize(("own", "other", "expected"), [(8, 4, 4), (2, 8, 2), (4, 4, 4), (8, 1, 1)])
def test_the_narrowest_stage_decides(own: int, other: int, expected: int) -> None:
    assert common_width(PIPELINE, own, [tail(other)]) == expected


@pytest.mark.parametrize(
    "beacons",
    [
        [],
        [tail(8, epoch=6)],
        [tail(8, model="other")],
        [tail(8, state="loading")],
        [tail(8, start=3)],
    ],
)
def test_a_stage_that_has_not_reported_takes_single_tokens(beacons: list[Beacon]) -> None:
    assert common_width(PIPELINE, 8, beacons) == 1
