"""Workers to fetch from: their order, and those that sent false bytes."""

from __future__ import annotations

import time

import pytest

from pomona.errors import ModelError
from pomona.messages.control import Beacon, Pipeline
from pomona.models.store.checked_source import CheckedSource
from pomona_stage_worker.loading.peer_fetching import REFUSED_S, PeerFetching
from support.beacons import beacon_of

PLAN = Pipeline("m", "someone/m@1", 7, 2, "active")


def worker(node: str) -> Beacon:
    return beacon_of("stage_worker", node, endpoints={"files": "tcp://127.0.0.1:1"})


def names(fetching: PeerFetching, now: float = 0.0) -> list[str]:
    workers = [worker(node) for node in ("head", "other", "own")]
    return [x.name for x in fetching.peers(PLAN, workers, [], now)]


def test_the_planners_machine_which_has_most_to_send_is_asked_last() -> None:
    fetching = PeerFetching("own")
    fetching.on_plan("head", [PLAN])
    assert names(fetching) == ["own.stage_worker", "other.stage_worker", "head.stage_worker"]


def test_a_worker_that_sent_false_bytes_is_reported_and_not_asked_for_ten_minutes() -> None:
    fetching = PeerFetching("own")
    fetching.on_plan("head", [PLAN])
    now = time.monotonic()
    other = fetching.peers(PLAN, [worker("other")], [], now)[0]
    assert isinstance(other, CheckedSource)
    with pytest.raises(ModelError, match="does not have the digest"):
        other._refuse("a.safetensors")  # type: ignore[reportPrivateUsage]
    (found,) = fetching.false_weights(now)
    assert (found.peer, found.node, found.file) == ("other.stage_worker", "other", "a.safetensors")
    assert "other.stage_worker" not in names(fetching, now)
    assert "other.stage_worker" in names(fetching, now + REFUSED_S + 60)
