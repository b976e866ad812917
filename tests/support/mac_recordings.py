"""Output of macOS commands, written by hand from Apple's documentation of the formats."""

from __future__ import annotations

import json
from typing import Any


def _bus(name: str, receptacle: str, speed: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    bus: dict[str, Any] = {
        "_name": f"thunderboltusb4_bus_{receptacle}",
        "device_name_key": name,
        "domain_uuid_key": "00000000-0000-0000-0000-000000000000",
        "receptacle_1_tag": {
            "current_speed_key": speed,
            "link_status_key": "0x2" if items else "0x7",
            "receptacle_id_key": receptacle,
            "receptacle_status_key": (
                "receptacle_connected" if items else "receptacle_no_devices_connected"
            ),
        },
        "vendor_name_key": "Apple Inc.",
    }
    return bus | ({"_items": items} if items else {})


def _mac(name: str, *below: dict[str, Any]) -> dict[str, Any]:
    item: dict[str, Any] = {
        "_name": name,
        "device_name_key": name,
        "mode_key": "thunderbolt_five",
        "vendor_name_key": "Apple Inc.",
    }
    return item | ({"_items": list(below)} if below else {})


def _output(*buses: dict[str, Any]) -> str:
    return json.dumps({"SPThunderboltDataType": list(buses)})


MESH = _output(
    _bus("Thunderbolt 5 Bus 0", "1", "80 Gb/s", [_mac("mini-2")]),
    _bus("Thunderbolt 5 Bus 1", "2", "Up to 120 Gb/s", [_mac("mini-3")]),
    _bus("Thunderbolt 5 Bus 2", "3", "Up to 80 Gb/s", []),
)
OLD_CABLE = _output(_bus("Thunderbolt 5 Bus 0", "1", "Up to 40 Gb/s", [_mac("mini-2")]))
THUNDERBOLT_4 = _output(_bus("thunderbolt_bus", "1", "Up to 40 Gb/s", [_mac("mini-m4")]))
DAISY_CHAIN = _output(
    _bus("Thunderbolt 5 Bus 0", "1", "80 Gb/s", [_mac("mini-2", _mac("mini-3"))]),
)
HUB = _output(
    _bus("Thunderbolt 5 Bus 0", "1", "80 Gb/s", [_mac("Thunderbolt 5 Hub", _mac("studio"))]),
)
NOTHING_CONNECTED = _output(_bus("Thunderbolt 5 Bus 0", "1", "Up to 80 Gb/s", []))

IBV_DEVICES = """\
    device                 node GUID
    ------              ----------------
    rdma_en2            0000000000000001
    rdma_en3            00000000000000a2
"""
IBV_NONE = """\
    device                 node GUID
    ------              ----------------
"""
PMSET_SERVER = """\
System-wide power settings:
Currently in use:
 standby              0
 sleep                0 (sleep prevented by caffeinate)
 autorestart          1
 disksleep            0
 displaysleep         10
"""
PMSET_DEFAULT = PMSET_SERVER.replace(
    "sleep                0 (sleep", "sleep                10 (sleep"
)
UPDATES_ON = """\
{
    AutomaticCheckEnabled = 1;
    AutomaticDownload = 1;
    AutomaticallyInstallMacOSUpdates = 1;
}
"""
UPDATES_OFF = UPDATES_ON.replace("MacOSUpdates = 1", "MacOSUpdates = 0")
PORTS = """\

Hardware Port: Ethernet
Device: en0
Ethernet Address: 00:00:00:00:00:01

Hardware Port: Wi-Fi
Device: en1
Ethernet Address: 00:00:00:00:00:02

Hardware Port: Thunderbolt 1
Device: en2
Ethernet Address: 00:00:00:00:00:03

Hardware Port: Thunderbolt Bridge
Device: bridge0
Ethernet Address: 00:00:00:00:00:04
"""
MACMON = (
    '{"timestamp":"2026-01-01T00:00:00Z","temp":{"cpu_temp_avg":43.7,"gpu_temp_avg":61.2},'
    '"memory":{"ram_total":68719476736},"gpu_usage":[1200,0.4],"cpu_power":2.1,'
    '"gpu_power":21.5,"all_power":24.1,"sys_power":36.8}\n'
)
