"""The texts of alerts: each says what, where, the effect on users, and one thing to do."""

from __future__ import annotations

import json

import pytest

from pomona.messages.control import Alert
from pomona_health_watcher.advice import advice_of
from pomona_health_watcher.preview import preview
from pomona_health_watcher.slack_message import MAX_TEXT, TITLES
from support.clusters import run_pomona

TEXTS = dict(preview("home"))


def test_at_least_twelve_faults_are_shown() -> None:
    assert len(TEXTS) >= 12
    assert len(set(TEXTS.values())) == len(TEXTS)


@pytest.mark.parametrize("fault", TEXTS)
def test_a_text_names_cluster_and_place_and_one_thing_to_do(fault: str) -> None:
    text = TEXTS[fault]
    severity = text.partition("] ")[0].removeprefix("[")
    assert severity in ("warning", "critical")
    assert text.startswith(f"[{severity}] home: ")
    assert "studio" in text or "mini" in text or "Qwen" in text
    assert "unknown." not in text
    assert any(x in text for x in ("`pomona ", "Check its power"))
    assert len(text) < MAX_TEXT


def test_a_service_that_came_back_is_a_warning_and_one_that_is_gone_is_critical() -> None:
    for fault, text in TEXTS.items():
        if "died and came back" in fault:
            assert text.startswith("[warning] home: Service restarted: ")
        if fault.endswith("is gone"):
            assert text.startswith("[critical] ")


def test_a_silent_planner_leaves_answers_running_and_says_what_cannot_happen() -> None:
    text = TEXTS["planner is gone"]
    assert "Answers go on. Until it is back, no model is loaded and no lost stage" in text


@pytest.mark.parametrize("kind", sorted(set(TITLES) - {"service_lost"}))
def test_every_kind_of_alert_has_advice(kind: str) -> None:
    assert "unknown" not in advice_of(Alert(f"{kind}/mac.x", "critical", "", 0.0)).effect


@pytest.mark.slow
def test_the_command_prints_every_text() -> None:
    done = run_pomona("alerts", "preview", "--json", POMONA_CLUSTER="home")
    assert {x["fault"]: x["text"] for x in json.loads(done.stdout)} == TEXTS
    shown = run_pomona("alerts", "preview").stdout
    assert all(f"When {fault}:" in shown for fault in TEXTS)
    assert max(map(len, shown.splitlines())) <= 78
