"""Which alerts are told, and that none is left without its end."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import Alert
from pomona_health_watcher.alert_deduplication import AlertDeduplication, Notice
from pomona_health_watcher.rules import Condition, Severity

UNIX = 1_700_000_000.0


def lost(severity: Severity = "critical", summary: str = "gone") -> Condition:
    return Condition("service_lost/x", severity, summary)


class Told:
    """An alert book and all that it told."""

    def __init__(self, repeat_after_s: float = 30.0, restored: tuple[Alert, ...] = ()) -> None:
        self.book = AlertDeduplication(repeat_after_s, restored)

    def at(self, now: float, *wrong: Condition, settled: bool = True) -> list[str]:
        notices = self.book.observe(wrong, now, UNIX + now, settled)
        return [f"{notice.kind} x{notice.times}" for notice in notices]


def test_an_alert_is_raised_once_and_resolved_once() -> None:
    told = Told()
    assert told.at(0, lost()) == ["raised x1"]
    assert told.at(1, lost()) == []
    assert told.at(2) == ["resolved x1"]
    assert told.at(3) == []


def test_an_alert_keeps_the_time_at_which_it_began() -> None:
    book = AlertDeduplication(30)
    book.observe([lost()], 0, UNIX)
    book.observe([lost(summary="still gone")], 9, UNIX + 9)
    assert book.active() == [Alert("service_lost/x", "critical", "still gone", UNIX)]
    [notice] = book.observe([], 10, UNIX + 10)
    assert (notice.alert.since, notice.at) == (UNIX, UNIX + 10)


def test_an_incident_is_raised_and_resolved_at_once() -> None:
    told = Told()
    told.book.note(lost(), UNIX)
    assert told.at(0) == ["raised x1", "resolved x1"]
    assert told.at(100) == []


def test_an_incident_of_an_alert_that_is_told_changes_nothing() -> None:
    told = Told()
    told.at(0, lost())
    told.book.note(lost(), UNIX)
    assert told.at(1) == ["resolved x1"]
    assert told.at(100) == []


def test_what_flaps_is_told_once_in_a_while_with_how_often_it_happened() -> None:
    told = Told(repeat_after_s=30)
    assert told.at(0, lost()) == ["raised x1"]
    assert told.at(1) == ["resolved x1"]
    for second in (5, 10, 15):
        assert told.at(second, lost()) == []
        assert told.at(second + 1) == []
    assert told.at(30) == ["raised x3", "resolved x1"]
    assert told.at(100) == []


def test_what_flapped_and_stays_is_raised_when_its_time_has_come() -> None:
    told = Told(repeat_after_s=30)
    told.at(0, lost())
    told.at(1)
    told.at(5, lost())
    told.at(6)
    assert told.at(10, lost()) == []
    assert told.book.active() != [], "it is wrong, told or not"
    assert told.at(30, lost()) == ["raised x2"]
    assert told.at(31) == ["resolved x1"]


def test_what_gets_worse_is_raised_again_and_resolved_once() -> None:
    told = Told(repeat_after_s=10)
    assert told.at(0, lost("warning")) == ["raised x1"]
    assert told.at(20, lost("critical")) == ["raised x1"]
    assert told.at(40, lost("warning")) == []
    assert told.at(41) == ["resolved x1"]


def test_what_a_former_process_told_is_resolved_only_when_enough_was_heard() -> None:
    told = Told(restored=(Alert("service_lost/x", "critical", "gone", UNIX),))
    assert told.at(0, settled=False) == []
    assert told.at(1, lost(), settled=False) == [], "it was told already"
    assert told.at(2, settled=False) == ["resolved x1"], "it was confirmed, and is over"

    told = Told(restored=(Alert("service_lost/x", "critical", "gone", UNIX),))
    assert told.at(19, settled=False) == []
    assert told.at(20, settled=True) == ["resolved x1"]


CONDITIONS = [
    Condition(key, severity, key) for key in ("a/1", "b/2") for severity in ("warning", "critical")
]


@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from(CONDITIONS), max_size=2),
            st.sets(st.sampled_from(CONDITIONS), max_size=1),
            st.floats(0.1, 40),
        ),
        max_size=40,
    ),
    st.floats(0, 60),
)
def test_every_raise_is_followed_by_its_resolution_and_nothing_is_kept_for_good(
    moments: list[tuple[set[Condition], set[Condition], float]], repeat_after_s: float
) -> None:
    book, now = AlertDeduplication(repeat_after_s), 0.0
    notices: list[Notice] = []
    happened: set[str] = set()
    for wrong, incidents, pause in moments:
        now += pause
        for incident in incidents:
            book.note(incident, UNIX + now)
        happened |= {condition.key for condition in wrong | incidents}
        notices += book.observe(wrong, now, UNIX + now)
    for _ in range(3):
        now += repeat_after_s + 1
        notices += book.observe([], now, UNIX + now)

    assert {notice.alert.key for notice in notices if notice.kind == "raised"} == happened
    open_alerts: set[str] = set()
    for notice in notices:
        if notice.kind == "raised":
            open_alerts.add(notice.alert.key)
        else:
            assert notice.alert.key in open_alerts, "resolved, but never raised"
            open_alerts.remove(notice.alert.key)
    assert open_alerts == set()
    assert book.active() == []
    for key in happened:
        raises = [x.at for x in notices if x.kind == "raised" and x.alert.key == key]
        gaps = [later - earlier for earlier, later in pairwise(raises)]
        assert all(gap >= repeat_after_s - 1e-3 for gap in gaps)
