"""The queue of notices: its order, and the drops of a full queue."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import Alert
from pomona_health_watcher.alert_deduplication import Notice
from pomona_health_watcher.notice_queue import NoticeQueue


def notice(kind: Any, key: str) -> Notice:
    return Notice(kind, Alert(key, "critical", "summary", 1.7e9), 1.7e9)


def waiting(queue: NoticeQueue) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while (first := queue.first()) is not None:
        found.append((first.kind, first.alert.key))
        queue.remove(first)
    return found


def test_notices_leave_in_the_order_of_arrival() -> None:
    queue = NoticeQueue(10)
    queue.put([notice("raised", "a"), notice("raised", "b")])
    queue.put([notice("resolved", "a")])
    assert waiting(queue) == [("raised", "a"), ("raised", "b"), ("resolved", "a")]


def test_a_full_queue_drops_alerts_that_are_over_first() -> None:
    queue = NoticeQueue(3)
    queue.put([notice("raised", "a"), notice("raised", "b"), notice("resolved", "b")])
    dropped = queue.put([notice("raised", "c")])
    assert [(x.kind, x.alert.key) for x in dropped] == [("raised", "b"), ("resolved", "b")]
    assert waiting(queue) == [("raised", "a"), ("raised", "c")]


def test_a_full_queue_drops_a_raise_before_a_resolution() -> None:
    queue = NoticeQueue(2)
    queue.put([notice("resolved", "a"), notice("raised", "b")])
    queue.put([notice("resolved", "c")])
    assert waiting(queue) == [("resolved", "a"), ("resolved", "c")]


@given(
    st.integers(2, 5),
    st.lists(st.tuples(st.sampled_from(["raised", "resolved"]), st.sampled_from("abc"))),
)
def test_a_queue_never_exceeds_its_size(size: int, put: list[tuple[str, str]]) -> None:
    queue = NoticeQueue(size)
    dropped = 0
    for kind, key in put:
        dropped += len(queue.put([notice(kind, key)]))
        assert len(queue) <= size
    assert len(waiting(queue)) + dropped == len(put)
