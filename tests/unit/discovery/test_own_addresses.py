"""Own addresses: kinds of interfaces, and the addresses that other nodes may use."""

from __future__ import annotations

import pytest

from pomona.messages.discovery import Interface
from pomona_discovery.own_addresses import addresses_of, kind_towards, parse_hardware_ports
from support.mac.machines import recorded

INTERFACES = (
    Interface("lo0", "loopback", "127.0.0.1"),
    Interface("en0", "ethernet", "10.0.0.1"),
    Interface("en1", "wifi", "192.168.1.1"),
    Interface("bridge0", "thunderbolt", "169.254.1.1"),
)


def test_a_wildcard_stands_for_all_addresses_but_loopback() -> None:
    assert addresses_of("0.0.0.0", INTERFACES) == ("10.0.0.1", "192.168.1.1", "169.254.1.1")
    assert addresses_of("10.0.0.9", INTERFACES) == ("10.0.0.9",)


def test_the_kind_of_a_link_is_that_of_the_interface_in_the_same_network() -> None:
    kinds = {"169.254.1.2": "thunderbolt", "10.0.0.2": "ethernet", "192.168.1.2": "wifi"}
    for address, kind in kinds.items():
        assert kind_towards(address, INTERFACES) == kind


def test_kinds_of_a_macs_interfaces_are_parsed() -> None:
    kinds = parse_hardware_ports(recorded("networksetup_m5max.txt"))
    assert (kinds["en0"], kinds["en3"]) == ("wifi", "ethernet")
    assert (kinds["en1"], kinds["bridge0"]) == ("thunderbolt", "thunderbolt")


def test_an_ethernet_port_in_a_dock_is_ethernet() -> None:
    kinds = parse_hardware_ports(recorded("networksetup_dock_ethernet.txt"))
    assert kinds["en5"] == "ethernet"


@pytest.mark.parametrize(
    ("port", "device", "kind"),
    [
        ("WLAN", "en0", "wifi"),
        ("AirPort", "en1", "wifi"),
        ("USB 10/100/1000 LAN", "en7", "ethernet"),
        ("AX88179A", "en8", "ethernet"),
        ("Ethernet-Adapter (en4)", "en4", "ethernet"),
        ("Thunderbolt Ethernet Slot 1", "en9", "ethernet"),
        ("Thunderbolt-Brücke", "bridge0", "thunderbolt"),
        ("iPhone USB", "en6", "other"),
        ("Bluetooth PAN", "en5", "other"),
        ("Serial Modem", "modem0", "other"),
    ],
)
def test_ports_of_other_languages_and_adapters_have_their_kind(
    port: str, device: str, kind: str
) -> None:
    text = f"\nHardware Port: {port}\r\nDevice: {device}\r\nEthernet Address: N/A\r\n"
    assert parse_hardware_ports(text) == {device: kind}
    assert parse_hardware_ports(text.replace("\r", "")) == {device: kind}


def test_a_port_without_a_device_is_left_out() -> None:
    text = "\nHardware Port: VLAN\nDevice: \nEthernet Address: N/A\n"
    text += "\nHardware Port: Wi-Fi\nDevice: en0\n"
    assert parse_hardware_ports(text) == {"en0": "wifi"}
