"""Changes of a cluster in sentences."""

from __future__ import annotations

from dataclasses import replace

from pomona.cluster_report import ClusterReport, cluster_report
from pomona.messages.control import Alert, Beacon, HealthWatcherFacts, PlannerFacts
from pomona_gateway.dashboard.change_log import CHANGES, Change, ChangeLog, changes
from support.node_beacons import ALERT, PIPELINE, node_beacon, worker_beacon

BEACONS: dict[str, Beacon] = {
    "planner": node_beacon("planner", PlannerFacts((PIPELINE,))),
    "w0": worker_beacon("w0", 0, 16),
    "w1": worker_beacon("w1", 16, 30),
}


def report(**beacons: Beacon) -> ClusterReport:
    return cluster_report("c", (BEACONS | beacons).values())


def differences(before: ClusterReport, after: ClusterReport) -> list[Change]:
    return list(changes(before, after, 5.0))


def test_nothing_has_changed_between_equal_reports() -> None:
    assert differences(report(), report()) == []


def test_a_new_epoch_names_its_stages_and_its_end_is_good_news() -> None:
    forming = replace(PIPELINE, epoch=8, state="forming")
    planned = report(planner=node_beacon("planner", PlannerFacts((forming,))))
    [epoch] = differences(report(), planned)
    assert (epoch.kind, epoch.at) == ("epoch", 5.0)
    assert epoch.text == "tiny: epoch 8 is forming: layers 0..16 on mac.w0, 16..30 on mac.w1"
    active = replace(forming, state="active")
    [formed] = differences(planned, report(planner=node_beacon("planner", PlannerFacts((active,)))))
    assert (formed.severity, formed.text) == ("good", "tiny: epoch 8 is active")


def test_lost_restarted_and_new_services_are_told() -> None:
    lost = cluster_report("c", [BEACONS["planner"], BEACONS["w0"]])
    assert [x.text for x in differences(report(), lost)] == [
        "mac.w1 is gone: no beacon arrives from it"
    ]
    assert [x.severity for x in differences(lost, report())] == ["good"]
    other = report(w1=replace(BEACONS["w1"], pid=43))
    assert "restarted" in differences(report(), other)[0].text


def test_a_machine_that_leaves_is_told_once_and_not_for_each_service() -> None:
    far = replace(BEACONS["w1"], name="far.w1", node="far")
    [joined] = differences(report(), report(far=far))
    assert joined.text == "far has joined"
    [left] = differences(report(far=far), report())
    assert (left.kind, left.severity) == ("node", "critical")


def test_alerts_come_and_go() -> None:
    raised = report(watcher=node_beacon("health_watcher", HealthWatcherFacts((ALERT,))))
    calm = report(watcher=node_beacon("health_watcher", HealthWatcherFacts(())))
    assert [(x.severity, x.text) for x in differences(calm, raised)] == [
        ("critical", ALERT.summary)
    ]
    assert [x.severity for x in differences(raised, calm)] == ["good"]


def test_the_log_keeps_the_latest_and_hands_out_what_is_new() -> None:
    log = ChangeLog()
    log.observe(report(), 0.0)
    assert log.after(0) == []
    for number in range(CHANGES):
        alert = Alert(f"k{number}", "warning", f"a{number}", 1.0)
        watcher = node_beacon("health_watcher", HealthWatcherFacts((alert,)))
        log.observe(report(watcher=watcher), float(number))
    assert len(log.after(0)) == CHANGES
    assert len(log.after(log.added - 2)) == 2
    assert log.after(log.added) == []
