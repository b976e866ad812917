"""Alerts are raised once and resolved once, and none is suppressed for good."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import Alert
from pomona_health_watcher.alert_deduplication import AlertDeduplication, Notice
from pomona_health_watcher.conditions import Condition, Severity

UNIX = 1_700_000_000.0


def lost(severity: Severity = "critical", summary: str = "gone") -> Condition:
    return Condition("service_lost/x", severity, summary)


class Alerts:
    """Runs one deduplication and shortens its notices to ``kind xtimes``."""

    def __init__(self, repeat_after_s: float = 30.0, restored: tuple[Alert, ...] = ()) -> None:
        self.deduplication = AlertDeduplication(repeat_after_s, restored)

    def at(self, now: float, *current: Condition, settled: bool = True) -> list[str]:
        notices = self.deduplication.update(current, now, UNIX + now, settled)
        return [f"{notice.kind} x{notice.times}" for notice in notices]


def test_an_alert_is_raised_once_and_resolved_once() -> None:
    alerts = Alerts()
    assert alerts.at(0, lost()) == ["raised x1"]
    assert alerts.at(1, lost()) == []
    assert alerts.at(2) == ["resolved x1"]
    assert alerts.at(3) == []


def test_an_alert_keeps_the_time_at_which_it_began() -> None:
    deduplication = AlertDeduplication(30)
    deduplication.update([lost()], 0, UNIX)
    deduplication.update([lost(summary="still gone")], 9, UNIX + 9)
    assert deduplication.active() == [Alert("service_lost/x", "critical", "still gone", UNIX)]
    [notice] = deduplication.update([], 10, UNIX + 10)
    assert (notice.alert.since, notice.at) == (UNIX, UNIX + 10)


def test_an_incident_is_raised_and_resolved_at_once() -> None:
    alerts = Alerts()
    alerts.deduplication.add_incident(lost(), UNIX)
    assert alerts.at(0) == ["raised x1", "resolved x1"]
    assert alerts.at(100) == []


def test_an_incident_of_an_active_alert_changes_nothing() -> None:
    alerts = Alerts()
    alerts.at(0, lost())
    alerts.deduplication.add_incident(lost(), UNIX)
    assert alerts.at(1) == ["resolved x1"]
    assert alerts.at(100) == []


def test_a_flapping_alert_is_raised_once_an_interval_with_its_count() -> None:
    alerts = Alerts(repeat_after_s=30)
    assert alerts.at(0, lost()) == ["raised x1"]
    assert alerts.at(1) == ["resolved x1"]
    for second in (5, 10, 15):
        assert alerts.at(second, lost()) == []
        assert alerts.at(second + 1) == []
    assert alerts.at(30) == ["raised x3", "resolved x1"]
    assert alerts.at(100) == []


def test_an_alert_that_flapped_and_stays_is_raised_after_the_interval() -> None:
    alerts = Alerts(repeat_after_s=30)
    alerts.at(0, lost())
    alerts.at(1)
    alerts.at(5, lost())
    alerts.at(6)
    assert alerts.at(10, lost()) == []
    assert alerts.deduplication.active() != [], "active, raised or not"
    assert alerts.at(30, lost()) == ["raised x2"]
    assert alerts.at(31) == ["resolved x1"]


def test_an_alert_that_gets_worse_is_raised_again_and_resolved_once() -> None:
    alerts = Alerts(repeat_after_s=10)
    assert alerts.at(0, lost("warning")) == ["raised x1"]
    assert alerts.at(20, lost("critical")) == ["raised x1"]
    assert alerts.at(40, lost("warning")) == []
    assert alerts.at(41) == ["resolved x1"]


def test_a_restored_alert_is_resolved_only_when_the_rules_have_settled() -> None:
    alerts = Alerts(restored=(Alert("service_lost/x", "critical", "gone", UNIX),))
    assert alerts.at(0, settled=False) == []
    assert alerts.at(1, lost(), settled=False) == [], "raised by the former process"
    assert alerts.at(2, settled=False) == ["resolved x1"], "confirmed, and over"

    alerts = Alerts(restored=(Alert("service_lost/x", "critical", "gone", UNIX),))
    assert alerts.at(19, settled=False) == []
    assert alerts.at(20, settled=True) == ["resolved x1"]


def test_a_condition_that_happens_again_is_raised_again_and_resolved_once() -> None:
    alerts = Alerts(repeat_after_s=10)
    assert alerts.at(0, replace(lost("warning"), count=1)) == ["raised x1"]
    assert alerts.at(5, replace(lost("warning"), count=3)) == []
    assert alerts.at(12, replace(lost("warning"), count=3)) == ["raised x1"]
    assert alerts.at(40, replace(lost("warning"), count=2)) == [], "older ones no longer count"
    assert alerts.at(41) == ["resolved x1"]


def test_times_are_those_of_the_fault_not_of_its_messages() -> None:
    deduplication = AlertDeduplication(30)
    deduplication.update([replace(lost(), age_s=3.0)], 0, UNIX)
    [raised] = deduplication.active()
    assert raised.since == UNIX - 3
    deduplication.update([replace(lost(), age_s=9.0, over_s=2.0)], 6, UNIX + 6)
    [resolved] = deduplication.update([], 15, UNIX + 15)
    assert (resolved.alert.since, resolved.at) == (UNIX - 3, UNIX + 4)


def test_a_fault_that_is_reported_late_keeps_its_duration() -> None:
    deduplication = AlertDeduplication(30)
    deduplication.update([lost()], 0, UNIX)
    deduplication.update([], 1, UNIX + 1)
    deduplication.update([lost()], 5, UNIX + 5)
    deduplication.update([], 7, UNIX + 7)
    _, resolved = deduplication.update([], 31, UNIX + 31)
    assert resolved.at - resolved.alert.since == 2


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
def test_every_raise_is_followed_by_its_resolution_and_no_alert_is_suppressed_for_good(
    moments: list[tuple[set[Condition], set[Condition], float]], repeat_after_s: float
) -> None:
    deduplication, now = AlertDeduplication(repeat_after_s), 0.0
    notices: list[Notice] = []
    happened: set[str] = set()
    for current, incidents, pause in moments:
        now += pause
        for incident in incidents:
            deduplication.add_incident(incident, UNIX + now)
        happened |= {condition.key for condition in current | incidents}
        notices += deduplication.update(current, now, UNIX + now)
    for _ in range(3):
        now += repeat_after_s + 1
        notices += deduplication.update([], now, UNIX + now)

    assert {notice.alert.key for notice in notices if notice.kind == "raised"} == happened
    open_alerts: set[str] = set()
    for notice in notices:
        if notice.kind == "raised":
            open_alerts.add(notice.alert.key)
        else:
            assert notice.alert.key in open_alerts, "resolved, but never raised"
            open_alerts.remove(notice.alert.key)
    assert open_alerts == set()
    assert deduplication.active() == []
    for key in happened:
        raises = [x.at for x in notices if x.kind == "raised" and x.alert.key == key]
        gaps = [later - earlier for earlier, later in pairwise(raises)]
        assert all(gap >= repeat_after_s - 1e-3 for gap in gaps)
