"""An epoch is above all that was ever seen, whatever was lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import Pipeline, StageStatus
from pomona_planner.control.epochs import next_epoch
from support.beacons import beacon_of

EPOCHS = st.integers(0, 10_000)


@given(
    saved=EPOCHS,
    planned=st.lists(EPOCHS, max_size=3),
    held=st.lists(EPOCHS, max_size=3),
    highest=EPOCHS,
    on_disk=EPOCHS,
    broken=EPOCHS,
    proven=st.lists(EPOCHS, max_size=3),
)
def test_the_next_epoch_is_one_above_the_highest_that_anyone_has_seen(
    saved: int,
    planned: list[int],
    held: list[int],
    highest: int,
    on_disk: int,
    broken: int,
    proven: list[int],
) -> None:
    stages = tuple(StageStatus("m", epoch, 0, 1, "ready") for epoch in held)
    worker = {
        "stages": stages,
        "highest_epoch": highest,
        "saved_epoch": on_disk,
        "broken_epoch": broken,
    }
    gateway = {"proven_epochs": {f"m{n}": epoch for n, epoch in enumerate(proven)}}
    found = next_epoch(
        saved,
        [Pipeline("m", "m", epoch, 1, "forming") for epoch in planned],
        [
            beacon_of("stage_worker", facts=worker),
            beacon_of("gateway", facts=gateway),
            beacon_of("discovery"),
        ],
    )
    assert found == 1 + max([saved, *planned, *held, highest, on_disk, broken, *proven])


def test_the_first_epoch_is_one() -> None:
    assert next_epoch(0, [], []) == 1


def test_an_epoch_that_was_never_planned_is_not_believed() -> None:
    worker = beacon_of("stage_worker", facts={"highest_epoch": 2**53, "broken_epoch": 9})
    gateway = beacon_of("gateway", facts={"proven_epochs": {"m": 7 + 2**33}})
    assert next_epoch(7, [], [worker, gateway]) == 10
