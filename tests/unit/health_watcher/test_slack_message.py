"""Alerts as Slack messages, within Slack's limits."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.messages.control import Alert
from pomona_health_watcher.alert_deduplication import Notice
from pomona_health_watcher.slack_message import (
    MAX_CONTEXT,
    MAX_HEADER,
    MAX_SECTION,
    MAX_TEXT,
    TITLES,
    escape,
    slack_message,
)

ALERT = Alert("service_lost/mac.gateway", "critical", "gateway mac.gateway is lost", 1.7e9)
RAISED = Notice("raised", ALERT, 1.7e9)
RESOLVED = Notice("resolved", ALERT, 1.7e9 + 75)


def parts(message: dict[str, Any]) -> tuple[str, str, str]:
    """Header, section and context."""
    header, section, context = message["blocks"]
    assert header["text"]["type"] == "plain_text"
    assert section["text"]["type"] == "mrkdwn"
    return header["text"]["text"], section["text"]["text"], context["elements"][0]["text"]


def test_a_raised_alert_shows_title_summary_cluster_severity_and_start() -> None:
    message = slack_message(RAISED, "home")
    header, section, context = parts(message)
    assert header == ":red_circle: Service lost"
    what, effect, action = section.split("\n")
    assert what == "gateway mac.gateway is lost"
    assert "cluster home · service_lost/mac.gateway · critical, since <!date^1700000000^" in context
    assert message["text"] == (
        f"[critical] home: Service lost: gateway mac.gateway is lost. {effect} {action}"
    )


def test_a_resolved_alert_shows_its_duration() -> None:
    message = slack_message(RESOLVED, "home")
    header, _, context = parts(message)
    assert header == ":large_green_circle: Resolved: service lost"
    assert "after 1 min 15 s" in context
    assert message["text"].startswith("[resolved] home: Service lost: ")


def test_an_alert_that_occurred_several_times_shows_the_count() -> None:
    _, _, context = parts(slack_message(replace(RAISED, times=4), "home"))
    assert context.endswith("happened 4 times")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a & b", "a &amp; b"),
        ("<!channel>", "&lt;!channel&gt;"),
        ("<https://bad|good>", "&lt;https://bad|good&gt;"),
        ("&amp;", "&amp;amp;"),
    ],
)
def test_control_characters_are_escaped_everywhere(text: str, escaped: str) -> None:
    message = slack_message(replace(RAISED, alert=replace(ALERT, summary=text)), "home")
    assert parts(message)[1].startswith(f"{escaped}\n")
    assert f": {escaped}. " in message["text"]


@given(st.text(alphabet="a&<>é", max_size=60), st.integers(1, 40))
def test_escaped_text_is_cut_between_characters_within_its_limit(text: str, limit: int) -> None:
    found = escape(text, limit)
    assert len(found) <= limit
    assert re.fullmatch(r"(?:[aé…]|&amp;|&lt;|&gt;)*", found)
    if found.endswith("…"):
        assert sum({"&": 5, "<": 4, ">": 4}.get(c, 1) for c in text) > limit


@given(
    st.text(max_size=4096),
    st.sampled_from([*TITLES, "unheard"]),
    st.text(max_size=3000),
    st.sampled_from(["raised", "resolved"]),
)
def test_any_alert_keeps_within_the_limits_of_slack(
    summary: str, kind: str, subject: str, what: Any
) -> None:
    alert = Alert(f"{kind}/{subject}"[:4096], "warning", summary, 1.7e9)
    message = slack_message(Notice(what, alert, 1.8e9, times=10**6), "c" * 64)
    header, section, context = parts(message)
    assert 1 <= len(header) <= MAX_HEADER
    assert 1 <= len(section) <= MAX_SECTION
    assert 1 <= len(context) <= MAX_CONTEXT
    assert 1 <= len(message["text"]) <= MAX_TEXT
    assert re.search(r"<!date\^\d+\^[^>]*>", context), "the date is not cut"
    assert orjson.loads(orjson.dumps(message)) == message
