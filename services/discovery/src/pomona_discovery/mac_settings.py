"""Parses the settings of macOS that decide whether a Mac serves unattended.

Sources: ``man 1 pmset``, ``man 1 defaults``, ``man 8 fdesetup``, ``man 8 ifconfig``, and the help
of ``socketfilterfw``.
"""

from __future__ import annotations

import re
from typing import Final

from pomona.messages.discovery import Switch

_ON_OFF: Final[dict[str, Switch]] = {
    "enabled": "on", "on": "on", "disabled": "off", "off": "off",
}  # fmt: skip


def sleep_minutes(text: str) -> int:
    """Parses ``pmset -g``: idle minutes until the machine sleeps, 0 for never.

    ``SleepDisabled 1``, which ``pmset disablesleep 1`` sets, takes precedence over ``sleep``.
    Raises ValueError when the output has no sleep setting.
    """
    if _number(text, "SleepDisabled") == 1:
        return 0
    minutes = _number(text, "sleep")
    if minutes is None:
        raise ValueError("pmset printed no sleep setting")
    return minutes


def restarts_after_power_failure(text: str) -> Switch:
    """Parses ``autorestart`` of ``pmset -g``; laptops have no such setting."""
    return _switch(_number(text, "autorestart"))


def _number(text: str, name: str) -> int | None:
    match = re.search(rf"^\s*{name}\s+(\d+)", text, re.MULTILINE)
    return None if match is None else int(match[1])


def _switch(value: int | None) -> Switch:
    return "unknown" if value is None else "on" if value else "off"


def automatic_updates(text: str) -> Switch:
    """Parses ``defaults read``: whether macOS installs updates, and restarts, by itself."""
    match = re.search(r'AutomaticallyInstallMacOSUpdates"?\s*=\s*"?(\w+)', text)
    values: dict[str, Switch] = {"1": "on", "true": "on", "yes": "on"}
    values |= {"0": "off", "false": "off", "no": "off"}
    return values.get(match[1].lower(), "unknown") if match else "unknown"


def file_vault(text: str) -> Switch:
    """Parses ``fdesetup status``."""
    match = re.search(r"FileVault is (On|Off)", text, re.IGNORECASE)
    return "unknown" if match is None else "on" if match[1].lower() == "on" else "off"


def firewall(text: str) -> Switch:
    """Parses ``socketfilterfw --getglobalstate``. State 2 blocks all incoming connections."""
    if match := re.search(r"State\s*=\s*(\d)", text):
        return "off" if match[1] == "0" else "on"
    found = re.search(r"firewall is (?:\w+ )?(enabled|disabled|on|off)\b", text, re.IGNORECASE)
    return "unknown" if found is None else _ON_OFF[found[1].lower()]


def bridge_members(text: str) -> tuple[str, ...]:
    """Parses ``ifconfig bridge0``: interfaces of the bridge, none when it is down."""
    match = re.search(r"flags=\w+<([^>]*)>", text)
    if match is None or "UP" not in match[1].split(","):
        return ()
    return tuple(re.findall(r"^\s*member: (\S+)", text, re.MULTILINE))
