"""Formats a notice as a Slack message: Block Kit, with plain text for notifications. Pure.

The limits are Slack's: https://docs.slack.dev/reference/block-kit/blocks. Text from users and
models is escaped, and cannot mention a channel or forge a link:
https://docs.slack.dev/messaging/formatting-message-text#escaping
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from pomona_health_watcher.advice import advice_of
from pomona_health_watcher.alert_deduplication import Notice

MAX_HEADER: Final = 150
MAX_SECTION: Final = 3000
MAX_CONTEXT: Final = 2000
MAX_TEXT: Final = 4000

TITLES: Final = {
    "service_lost": "Service lost",
    "node_lost": "Node lost",
    "stalled": "Stage stalled",
    "memory": "Memory pressure",
    "stage_failed": "Stage failed",
    "service_failed": "Service failed",
    "pipeline": "Pipeline impossible",
    "node_restarted": "Node restarted",
    "set_aside": "Stage worker set aside",
    "panic": "Mac panicked",
    "local_network": "Local network denied",
    "version_skew": "Versions differ",
    "macos_skew": "macOS versions differ",
    "disk": "Disk nearly full",
}
_SIGNS: Final = {"critical": ":red_circle:", "warning": ":large_orange_circle:"}
_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def slack_message(notice: Notice, cluster: str) -> dict[str, Any]:
    """Returns the JSON body for an incoming webhook.

    The plain text, which is all that a watch shows, is complete: cluster, what happened and
    where, the effect on users, and one thing to do.
    """
    alert = notice.alert
    title = TITLES.get(alert.key.partition("/")[0], "Alert")
    if alert.severity == "warning" and alert.key.startswith("service_lost/"):
        title = "Service restarted"
    advice = advice_of(alert)
    end = "" if alert.summary.endswith((".", "!", "?")) else "."
    help_lines = [] if notice.kind == "resolved" else [advice.effect, advice.action]
    lines = [line for line in help_lines if line]
    after = "".join(f" {line}" for line in lines)
    after = f"{end}{after}" if after else ""
    if notice.kind == "resolved":
        header = f":large_green_circle: Resolved: {title.lower()}"
        plain = f"[resolved] {cluster}: {title}: "
        when = f"after {_duration(notice.at - alert.since)}, since {_date(alert.since)}"
    else:
        header = f"{_SIGNS[alert.severity]} {title}"
        plain = f"[{alert.severity}] {cluster}: {title}: "
        when = f"{alert.severity}, since {_date(alert.since)}"
        if notice.times > 1:
            when += f", happened {notice.times} times"
    section = escape(alert.summary, MAX_SECTION - len(after) - 1)
    section += "".join(f"\n{line}" for line in lines)
    context = f"cluster {escape(cluster, 100)} · {escape(alert.key, 1500)} · {when}"
    return {
        "text": plain + escape(alert.summary, MAX_TEXT - len(plain) - len(after)) + after,
        "blocks": [
            {
                "type": "header",
                "text": {"type": "plain_text", "text": header[:MAX_HEADER], "emoji": True},
            },
            {
                "type": "section",
                "text": {"type": "mrkdwn", "text": section or " "},
            },
            {"type": "context", "elements": [{"type": "mrkdwn", "text": context[:MAX_CONTEXT]}]},
        ],
    }


def heartbeat_message(cluster: str, nodes: int, services: int, alerts: int) -> dict[str, Any]:
    """Returns the JSON body of a message that says that the watcher runs and what it sees."""
    what = "no alert is active" if not alerts else f"active alerts: {alerts}"
    text = f"[heartbeat] {escape(cluster, 100)}: nodes: {nodes}, services: {services}, {what}."
    return {"text": text}


def escape(text: str, limit: int) -> str:
    """Escapes Slack's control characters. Cuts the result to ``limit`` characters."""
    escaped = [_ESCAPES.get(character, character) for character in text]
    if sum(map(len, escaped)) <= limit:
        return "".join(escaped)
    kept: list[str] = []
    left = limit - 1
    for piece in escaped:
        left -= len(piece)
        if left < 0:
            break
        kept.append(piece)
    return "".join(kept) + "…"


def _date(unix: float) -> str:
    """Formats a time that Slack shows in the reader's time zone; the fallback is UTC."""
    fallback = datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"<!date^{int(unix)}^{{date_short_pretty}} {{time_secs}}|{fallback}>"


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
