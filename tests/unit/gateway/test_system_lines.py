"""Lines that differ at each request leave the beginning of the prompt the same."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pomona_gateway.settings import GatewaySettings
from pomona_gateway.text.system_lines import SystemLines

BILLING = "x-anthropic-billing-header: cc_version=2.1.%d; cc_entrypoint=cli; cch=%05x;"
CLOCK = "Current time: 10:43:%02d"
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def test_billing_header_is_left_out_whatever_is_in_it() -> None:
    prompts = [
        SystemLines().stabilise([system(BILLING % (n, n) + "\nYou are a coding agent."), USER])
        for n in range(2)
    ]
    assert prompts == [[system("You are a coding agent."), USER]] * 2


def test_system_message_of_nothing_but_a_header_is_left_out() -> None:
    messages = [system(BILLING % (1, 1)), system("Be brief."), USER]
    assert SystemLines().stabilise(messages) == [system("Be brief."), USER]


def test_time_moves_behind_the_conversation() -> None:
    def prompt(second: int) -> list[Any]:
        text = f"Be brief.\n{CLOCK % second}\nBe kind."
        late = system("Now.")
        return list(SystemLines().stabilise([system(text), USER, ANSWER, USER, late]))

    assert prompt(1)[:3] == prompt(2)[:3] == [system("Be brief.\nBe kind."), USER, ANSWER]
    assert prompt(1)[3]["content"] == "hi\n\nCurrent time: 10:43:01"
    assert prompt(1)[4] == system("Now.")


def test_time_stays_where_no_message_follows() -> None:
    messages = [system(CLOCK % 1)]
    assert SystemLines().stabilise(messages) == messages


def test_other_lines_and_messages_of_users_are_kept_as_they_are() -> None:
    messages = [
        system("\nToday's date is 2026-11-30.\nThe current time zone is UTC.\n"),
        {"role": "user", "content": BILLING % (1, 1)},
    ]
    assert SystemLines().stabilise(messages) == messages


def test_patterns_are_settings() -> None:
    lines = SystemLines(dropped=(), moved=("Session: .*",))
    [first, second] = lines.stabilise([system(BILLING % (1, 1) + "\nSession: 7"), USER])
    assert first == system(BILLING % (1, 1))
    assert second["content"] == "hi\n\nSession: 7"
    with pytest.raises(ValidationError, match="not a valid regular expression"):
        GatewaySettings(volatile_system_lines=("(",))
