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
