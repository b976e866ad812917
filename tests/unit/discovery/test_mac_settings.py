"""Settings of macOS, parsed from recorded output."""

from __future__ import annotations

import pytest

from pomona_discovery import mac_settings
from support.mac.machines import STUDIO, recorded


@pytest.mark.parametrize(
    ("name", "minutes"), [("pmset_desktop_default.txt", 1), ("pmset_sleep_disabled.txt", 0)]
)
def test_disabled_sleep_takes_precedence_over_the_time_until_sleep(name: str, minutes: int) -> None:
    assert mac_settings.sleep_minutes(recorded(name)) == minutes


def test_pmset_without_a_sleep_setting_is_rejected() -> None:
    with pytest.raises(ValueError, match="no sleep setting"):
        mac_settings.sleep_minutes(" Sleep On Power Button 1\n")


def test_autorestart_is_not_taken_for_autorestartatconnect() -> None:
    text = recorded("pmset_desktop_default.txt")
    assert mac_settings.restarts_after_power_failure(text) == "off"
    changed = text.replace(" autorestart          0", " autorestart          1")
    assert mac_settings.restarts_after_power_failure(changed) == "on"
    laptop = recorded("pmset_sleep_disabled.txt")
    assert mac_settings.restarts_after_power_failure(laptop) == "unknown"


def test_switches_are_parsed() -> None:
    assert mac_settings.file_vault("FileVault is On.\n") == "on"
    assert mac_settings.file_vault(STUDIO["fdesetup"]) == "off"
    assert mac_settings.file_vault("fdesetup: not found\n") == "unknown"
    assert mac_settings.firewall("Firewall is enabled. (State = 1)\n") == "on"
    assert mac_settings.firewall(STUDIO["socketfilterfw"]) == "off"
    assert mac_settings.automatic_updates(STUDIO["defaults"]) == "on"
    assert mac_settings.automatic_updates("{}") == "unknown"


def test_a_bridge_forwards_between_its_members_while_it_is_up() -> None:
    text = recorded("ifconfig_bridge0_mini.txt")
    assert mac_settings.bridge_members(text) == ("en2", "en3", "en4")
    assert mac_settings.bridge_members(text.replace("<UP,", "<")) == ()
    assert mac_settings.bridge_members("ifconfig: interface bridge0 does not exist\n") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Firewall is enabled. (State = 2)\n", "on"),
        ("Firewall is disabled.\n", "off"),
        ("Firewall is on\n", "on"),
        ("socketfilterfw: unknown option\n", "unknown"),
    ],
)
def test_the_firewall_of_other_versions_is_parsed(text: str, expected: str) -> None:
    assert mac_settings.firewall(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [('"1"', "on"), ("true", "on"), ("NO", "off"), ("0", "off"), ("maybe", "unknown")],
)
def test_automatic_updates_are_parsed_however_they_were_written(value: str, expected: str) -> None:
    text = f'{{\n    "AutomaticallyInstallMacOSUpdates" = {value};\n}}\n'
    assert mac_settings.automatic_updates(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FileVault is On, but needs to be restarted to finish.\n", "on"),
        ("FileVault is Off.\nDeferred enablement appears to be active for user 'zoe'.\n", "off"),
        ("Encryption in progress: Percent completed = 12.3\nFileVault is On.\n", "on"),
    ],
)
def test_a_file_vault_that_changes_is_parsed(text: str, expected: str) -> None:
    assert mac_settings.file_vault(text) == expected


def test_sleep_is_parsed_beside_what_prevents_it() -> None:
    text = "Currently in use:\n displaysleep         10\n"
    text += " sleep                1 (sleep prevented by caffeinate, powerd)\n SleepDisabled\t\t0\n"
    assert mac_settings.sleep_minutes(text) == 1
