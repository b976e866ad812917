"""Alerts as Slack messages, within Slack's limits, and what waits to be posted."""

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
from pomona_health_watcher.notice_queue import NoticeQueue
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


def test_an_alert_says_what_where_how_bad_and_since_when() -> None:
    message = slack_message(RAISED, "home")
    header, section, context = parts(message)
    assert header == ":red_circle: Service lost"
    assert section == "gateway mac.gateway is lost"
    assert "cluster home · service_lost/mac.gateway · critical, since <!date^1700000000^" in context
    assert message["text"] == "[critical] Service lost: gateway mac.gateway is lost"


def test_a_resolution_says_how_long_it_took() -> None:
    message = slack_message(RESOLVED, "home")
    header, _, context = parts(message)
    assert header == ":large_green_circle: Resolved: service lost"
    assert "after 1 min 15 s" in context
    assert message["text"].startswith("[resolved] Service lost: ")


def test_what_happened_several_times_says_so() -> None:
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
    assert parts(message)[1] == escaped
    assert message["text"].endswith(escaped)


@given(st.text(alphabet="a&<>é", max_size=60), st.integers(1, 40))
def test_escaped_text_is_whole_within_its_limit(text: str, limit: int) -> None:
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


# The outbox ----------------------------------------------------------------------------


def notice(kind: Any, key: str) -> Notice:
    return Notice(kind, replace(ALERT, key=key), 1.7e9)


def waiting(outbox: NoticeQueue) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while (first := outbox.first()) is not None:
        found.append((first.kind, first.alert.key))
        outbox.done(first)
    return found


def test_notices_leave_in_the_order_in_which_they_came() -> None:
    outbox = NoticeQueue(10)
    outbox.put([notice("raised", "a"), notice("raised", "b")])
    outbox.put([notice("resolved", "a")])
    assert waiting(outbox) == [("raised", "a"), ("raised", "b"), ("resolved", "a")]


def test_a_full_outbox_gives_up_what_is_over_before_what_is_wrong() -> None:
    outbox = NoticeQueue(3)
    outbox.put([notice("raised", "a"), notice("raised", "b"), notice("resolved", "b")])
    dropped = outbox.put([notice("raised", "c")])
    assert [(x.kind, x.alert.key) for x in dropped] == [("raised", "b"), ("resolved", "b")]
    assert waiting(outbox) == [("raised", "a"), ("raised", "c")]


def test_a_full_outbox_gives_up_a_raise_before_a_resolution() -> None:
    outbox = NoticeQueue(2)
    outbox.put([notice("resolved", "a"), notice("raised", "b")])
    outbox.put([notice("resolved", "c")])
    assert waiting(outbox) == [("resolved", "a"), ("resolved", "c")]


@given(
    st.integers(2, 5),
    st.lists(st.tuples(st.sampled_from(["raised", "resolved"]), st.sampled_from("abc"))),
)
def test_an_outbox_never_grows_over_its_size(size: int, put: list[tuple[str, str]]) -> None:
    outbox = NoticeQueue(size)
    dropped = 0
    for kind, key in put:
        dropped += len(outbox.put([notice(kind, key)]))
        assert len(outbox) <= size
    assert len(waiting(outbox)) + dropped == len(put)
