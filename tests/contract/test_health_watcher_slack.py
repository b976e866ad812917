"""Posts against a server that answers as Slack does."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise

import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from pomona.messages.control import Alert
from pomona_health_watcher import notifier as notifier_module
from pomona_health_watcher.alert_deduplication import Notice
from pomona_health_watcher.notice_queue import NoticeQueue
from pomona_health_watcher.notifier import Notifier
from pomona_health_watcher.slack_message import slack_message
from pomona_health_watcher.slack_webhook import Outcome, SlackWebhook
from support.ports import free_port
from support.slack_server import OK, PATH, Answer, Slack
from support.waiting import wait_until_async


def notice(number: int = 1) -> Notice:
    return Notice("raised", Alert(f"service_lost/{number}", "critical", f"n{number}", 1.7e9), 1.7e9)


MESSAGE = slack_message(notice(), "home")


def summaries(slack: Slack) -> list[str]:
    """Returns the summaries of the posted alerts, in their order."""
    return [found for text in slack.texts for found in re.findall(r"\bn\d\b", text)]


async def post(url: str, give_up_after_s: float = 20.0) -> Outcome:
    webhook = SlackWebhook(SecretStr(url), 2.0, give_up_after_s)
    try:
        return await webhook.post(MESSAGE)
    finally:
        await webhook.close()


def test_a_message_arrives_as_blocks_and_plain_text() -> None:
    with Slack() as slack:
        assert asyncio.run(post(slack.url)) == "delivered"
        assert slack.messages == [MESSAGE]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, "rollup_error"),
        Answer(503, "<html>Service Unavailable</html>"),
        Answer(408, ""),
        Answer(429, "rate_limited"),
        Answer(429, "rate_limited", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        Answer(hang_up=True),
    ],
)
def test_a_transient_failure_is_retried(answer: Answer) -> None:
    with Slack([answer, answer]) as slack:
        assert asyncio.run(post(slack.url)) == "delivered"
        assert len(slack.attempts) == 3
        assert slack.messages == [MESSAGE]


def test_a_retry_waits_for_retry_after() -> None:
    with Slack([Answer(429, "rate_limited", {"Retry-After": "1"})]) as slack:
        assert asyncio.run(post(slack.url)) == "delivered"
        [pause] = [later - earlier for (earlier, _), (later, _) in pairwise(slack.attempts)]
        assert 1.0 <= pause < 3.0


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "invalid_payload"),
        (400, "user_not_found"),
        (403, "action_prohibited"),
        (403, "invalid_token"),
        (404, "channel_not_found"),
        (404, "no_service"),
        (410, "channel_is_archived"),
        (302, ""),
    ],
)
def test_a_permanent_failure_is_logged_and_not_retried(
    status: int, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Slack([Answer(status, error, {"Location": "/elsewhere"})]) as slack:
        assert asyncio.run(post(slack.url)) == "rejected"
        assert len(slack.attempts) == 1
    assert f"status {status}, {error}" in caplog.text


def test_a_refused_connection_is_retried() -> None:
    port = free_port()

    async def start_slack_after_a_failed_attempt() -> None:
        webhook = SlackWebhook(SecretStr(f"http://127.0.0.1:{port}{PATH}"), 2.0, 20.0)
        posting = asyncio.create_task(webhook.post(MESSAGE))
        await wait_until_async(lambda: webhook.retries, "a failed attempt")
        with Slack(port=port) as slack:
            assert await posting == "delivered"
            assert slack.messages == [MESSAGE]
        await webhook.close()

    asyncio.run(start_slack_after_a_failed_attempt())


def test_a_message_is_given_up_after_its_time() -> None:
    with Slack([Answer(500, "")] * 99) as slack:
        assert asyncio.run(post(slack.url, give_up_after_s=0.5)) == "given_up"
        assert len(slack.attempts) >= 1


def test_a_retry_after_beyond_the_time_is_given_up_at_once() -> None:
    with Slack([Answer(429, "", {"Retry-After": "999999"})]) as slack:
        assert asyncio.run(post(slack.url, give_up_after_s=5)) == "given_up"


def test_neither_the_webhook_nor_an_unknown_body_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "pomona_health_watcher")
    strange = Answer(404, "<b>strange page</b>")
    with Slack([Answer(500, "strange page"), strange]) as slack:
        assert asyncio.run(post(slack.url)) == "rejected"
    assert asyncio.run(post("http://127.0.0.1:1" + PATH, give_up_after_s=0.1)) == "given_up"
    ours = "\n".join(x.getMessage() + str(vars(x)) for x in caplog.records if "pomona" in x.name)
    assert ours
    assert "secret" not in ours
    assert "strange page" not in ours


# The notifier: one message after the other --------------------------------------------------------


def posts(outcome: str) -> float:
    value = REGISTRY.get_sample_value("pomona_health_watcher_posts_total", {"outcome": outcome})
    return value or 0.0


def run_notifier(
    slack: Slack,
    body: Callable[[Notifier], Awaitable[None]],
    size: int = 10,
    unresolved: Iterable[Alert] = (),
) -> Notifier:
    async def run() -> Notifier:
        webhook = SlackWebhook(SecretStr(slack.url), 2.0, 20.0)
        notifier = Notifier("home", webhook, NoticeQueue(size), unresolved)
        task = asyncio.create_task(notifier.run())
        try:
            await body(notifier)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await webhook.close()
        return notifier

    return asyncio.run(run())


def test_failures_do_not_change_the_order() -> None:
    async def body(notifier: Notifier) -> None:
        notifier.submit([notice(1), notice(2)])
        notifier.submit([notice(3)])
        await notifier.drain(10)

    failures = [Answer(500, ""), OK, Answer(hang_up=True), OK, Answer(429, "")]
    with Slack(failures) as slack:
        notifier = run_notifier(slack, body)
        assert summaries(slack) == ["n1", "n2", "n3"]
        assert [alert.summary for alert in notifier.unresolved()] == ["n1", "n2", "n3"]


def test_a_rejected_alert_is_counted_and_the_next_one_is_posted() -> None:
    before = posts("rejected")

    async def body(notifier: Notifier) -> None:
        notifier.submit([notice(1), notice(2)])
        await notifier.drain(10)

    with Slack([Answer(404, "no_service")]) as slack:
        notifier = run_notifier(slack, body)
        assert len(slack.messages) == 1
    assert posts("rejected") == before + 1
    assert [alert.summary for alert in notifier.unresolved()] == ["n2"]


def test_a_resolved_alert_is_no_longer_unresolved() -> None:
    raised = notice(1)

    async def body(notifier: Notifier) -> None:
        notifier.submit([Notice("resolved", raised.alert, 1.7e9 + 9)])
        await notifier.drain(10)

    with Slack() as slack:
        assert run_notifier(slack, body, unresolved=[raised.alert]).unresolved() == ()
        assert slack.texts[0].startswith("[resolved]")


def test_a_full_queue_counts_dropped_alerts() -> None:
    before = posts("dropped")

    async def body(notifier: Notifier) -> None:
        notifier.submit([notice(number) for number in range(5)])
        await notifier.drain(10)

    with Slack() as slack:
        run_notifier(slack, body, size=2)
        assert summaries(slack) == ["n3", "n4"]
    assert posts("dropped") == before + 3


def test_the_post_past_the_limit_of_a_minute_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier_module, "MAX_POSTS", 3)

    async def body(notifier: Notifier) -> None:
        notifier.submit([notice(number) for number in range(1, 5)])
        await wait_until_async(lambda: len(notifier.unresolved()) == 3, "three are posted")
        assert len(notifier._queue) == 1  # type: ignore[reportPrivateUsage]

    with Slack() as slack:
        run_notifier(slack, body)
        assert summaries(slack) == ["n1", "n2", "n3"]


def test_draining_ends_at_its_deadline_though_slack_is_down() -> None:
    async def body(notifier: Notifier) -> None:
        notifier.submit([notice(1)])
        await wait_until_async(lambda: slack.attempts, "an attempt")
        async with asyncio.timeout(3):
            await notifier.drain(0.2)

    with Slack([Answer(500, "")] * 99) as slack:
        assert run_notifier(slack, body).unresolved() == ()
