"""Reads this node's own network interfaces and addresses.

Sources: ``man 8 networksetup`` of macOS, and psutil's manual.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import psutil

from pomona import host
from pomona.messages.discovery import Interface
from pomona.messages.limits import MAX_INTERFACES
from pomona_discovery.hardware import Run, value_or
from pomona_discovery.mac_commands import run

MAX_ADVERTISED_ADDRESSES: Final = 16
_TETHERS: Final = ("bluetooth", "iphone", "ipad", "modem", "vpn", "firewire", "virtual")
"""Parts of the names of ports that lead to no other Mac."""


def interfaces(kinds: Mapping[str, str]) -> tuple[Interface, ...]:
    """Returns the interfaces that are up and have an IPv4 address.

    Args:
        kinds: kind by interface name; others get their kind from :func:`interface_kind`.
    """

    def read() -> tuple[Interface, ...]:
        state = psutil.net_if_stats()
        found: list[Interface] = []
        for name, addresses in sorted(psutil.net_if_addrs().items()):
            speed = state[name].speed if name in state else 0
            for address in addresses:
                if address.family == socket.AF_INET and (name not in state or state[name].isup):
                    kind = kinds.get(name) or interface_kind(name)
                    found.append(Interface(name, kind, address.address, max(speed, 0)))
        return tuple(found[:MAX_INTERFACES])

    return value_or("interfaces", read, (), logging.DEBUG)


def current_interfaces() -> tuple[Interface, ...]:
    """Returns the interfaces of this machine that are up and have an IPv4 address."""
    return interfaces(mac_interface_kinds(run) if host.is_mac() else {})


def mac_interface_kinds(run: Run) -> dict[str, str]:
    """Returns the kind of each interface of a Mac; empty when it is unknown."""
    kinds = value_or(
        "ports",
        lambda: parse_hardware_ports(run(["networksetup", "-listallhardwareports"])),
        {},
        logging.DEBUG,
    )
    if "thunderbolt" in kinds.values():
        kinds.setdefault("bridge0", "thunderbolt")
    return kinds


def parse_hardware_ports(text: str) -> dict[str, str]:
    """Parses the kind of each interface from ``networksetup -listallhardwareports``."""
    return {
        device: _port_kind(port, device)
        for port, device in re.findall(r"Hardware Port: (.+?)\r?\nDevice: (\S+)", text)
    }


def _port_kind(port: str, device: str) -> str:
    """Tells the kind of a port by its name, which is in the language of the system.

    Adapters are called after their chips, so a device ``en7`` of an unknown name is Ethernet.
    """
    name = port.lower()
    # The Ethernet port of a dock is called "Thunderbolt Ethernet Slot 1".
    if "ethernet" in name:
        return "ethernet"
    if "thunderbolt" in name:
        return "thunderbolt"
    if any(word in name for word in ("wi-fi", "wifi", "wlan", "airport")):
        return "wifi"
    if any(word in name for word in _TETHERS):
        return "other"
    return "ethernet" if "lan" in name or re.fullmatch(r"en\d+", device) else "other"


def interface_kind(name: str) -> str:
    """Returns the kind of an interface from its Linux name."""
    if name.startswith("lo"):
        return "loopback"
    if name.startswith(("wl", "ath")):
        return "wifi"
    if name.startswith("thunderbolt"):
        return "thunderbolt"
    # macOS names the bridges of virtual machines from bridge100 on. Other machines have the same.
    if re.match(r"bridge\d{3}", name):
        return "other"
    return "ethernet" if name.startswith(("en", "eth", "veth", "br", "bond")) else "other"


def is_in_own_network(address: str) -> bool:
    """Tests whether another machine's IPv4 address is in a network of this machine."""
    try:
        other = ipaddress.IPv4Address(address)
        return any(
            own.netmask
            and other in ipaddress.IPv4Network(f"{own.address}/{own.netmask}", strict=False)
            for name, addresses in psutil.net_if_addrs().items()
            for own in addresses
            if own.family == socket.AF_INET and interface_kind(name) != "loopback"
        )
    except (OSError, ValueError):
        return False


def addresses_of(host: str, interfaces: Sequence[Interface]) -> tuple[str, ...]:
    """Returns the addresses of a node that listens on ``host``, which may be a wildcard."""
    if host not in ("0.0.0.0", "*"):
        return (host,)
    found = dict.fromkeys(i.address for i in interfaces if i.kind != "loopback")
    return tuple(found)[:MAX_ADVERTISED_ADDRESSES]


def advertised_address(interfaces: Sequence[Interface]) -> str:
    """Returns the address of this machine that other nodes shall use; empty without one.

    Bridges of virtual machines and tunnels come last.
    """
    outside = [interface for interface in interfaces if interface.kind != "loopback"]
    return min(outside, key=lambda x: x.kind == "other").address if outside else ""


def kind_towards(address: str, interfaces: Sequence[Interface]) -> str:
    """Returns the kind of the interface that shares the longest prefix with an address."""
    try:
        target = int(ipaddress.IPv4Address(address))
    except ValueError:
        return "other"
    if target >> 24 == 127:
        return "loopback"

    def common_bits(interface: Interface) -> int:
        own = int(ipaddress.IPv4Address(interface.address))
        return 32 - (own ^ target).bit_length()

    usable = [interface for interface in interfaces if interface.kind != "loopback"]
    if not usable:
        return "other"
    return max(usable, key=common_bits).kind
