"""Thunderbolt ports and RDMA, parsed from recorded output of a Mac's commands."""

from __future__ import annotations

import json
import re

import pytest

from pomona_discovery.thunderbolt import (
    product_name,
    rdma_devices,
    rdma_state,
    thunderbolt_ports,
)
from support.mac.machines import recorded

Row = tuple[str, int, float, str, int, str]
EXPECTED: dict[str, list[Row]] = {
    "thunderbolt_tahoe_tb4_dock.json": [
        ("port 1", 5, 40, "", 0, "Thunderbolt 4 Docking Station (8-in-1)"),
        ("port 2", 5, 0, "", 0, ""),
        ("port 3", 5, 0, "", 0, ""),
    ],
    "thunderbolt_m5max_hub_and_mac.json": [
        ("port 1", 5, 0, "", 0, ""),
        ("port 2", 5, 80, "Mac17,6", 0, ""),
        ("port 3", 5, 80, "", 0, "SB-XTM5"),
    ],
    "thunderbolt_m5max_tb3_ssd_and_mac.json": [
        ("port 1", 5, 0, "", 0, ""),
        ("port 2", 5, 80, "Mac17,6", 0, ""),
        ("port 3", 5, 40, "", 0, "TBU405Pro"),
    ],
    "thunderbolt_two_macs_tb4.json": [
        ("port 2", 4, 40, "Device18,2", 0, ""),
        ("port 3", 4, 40, "Device15,12", 0, ""),
    ],
    "thunderbolt_m4max_idle_120.json": [("port 1", 5, 0, "", 0, "")],
    "thunderbolt_air_idle_40.json": [("port 2", 4, 0, "", 0, "")],
    "thunderbolt_mini_m4pro_to_studio.txt": [("port 3", 5, 80, "Mac16,9", 0, "")],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_ports_have_generation_speed_peer_hops_and_device(name: str) -> None:
    ports = thunderbolt_ports(recorded(name))
    found = [(p.name, p.generation, p.gbps, p.peer, p.hops, p.device) for p in ports]
    assert found == EXPECTED[name]


def test_both_ends_of_a_cable_name_each_others_domain() -> None:
    one = thunderbolt_ports(recorded("thunderbolt_m5max_hub_and_mac.json"))[1]
    other = thunderbolt_ports(recorded("thunderbolt_m5max_tb3_ssd_and_mac.json"))[1]
    assert one.domain
    assert (one.domain, one.peer_domain) == (other.peer_domain, other.domain)


def test_a_mac_behind_a_hub_is_a_peer_one_hop_away() -> None:
    text = recorded("thunderbolt_m5max_hub_and_mac.json")
    mac = '{"_name": "Mac Studio", "device_name_key": "Mac16,9", "domain_uuid_key": "d"}'
    nested = text.replace('"_name": "SB-XTM5",', f'"_name": "SB-XTM5", "_items": [{mac}],')
    port = thunderbolt_ports(nested)[2]
    assert (port.device, port.peer, port.hops, port.peer_domain) == ("SB-XTM5", "Mac16,9", 1, "d")


def test_the_text_and_the_json_of_two_buses_agree() -> None:
    bus = recorded("thunderbolt_mini_m4pro_to_studio.txt")
    idle = """
    Thunderbolt/USB4 Bus 1:

      Vendor Name: Apple Inc.
      Device Name: Mac mini
      Port:
          Status: No device connected
          Speed: Up to 120 Gb/s
          Receptacle: 2
"""
    ports = thunderbolt_ports(bus + idle)
    assert [(p.name, p.gbps, p.peer) for p in ports] == [
        ("port 2", 0, ""),
        ("port 3", 80, "Mac16,9"),
    ]
    assert ports[1].peer_domain.startswith("00000002")


@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("thunderbolt_air_idle_40.json", "MacBook Air"),
        ("thunderbolt_mini_m4pro_to_studio.txt", "Mac mini"),
    ],
)
def test_the_kind_of_mac_is_known(name: str, product: str) -> None:
    assert product_name(recorded(name)) == product


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"SPThunderboltDataType": 3}'])
def test_invalid_output_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # message of the JSON library, or ours
        thunderbolt_ports(text)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (recorded("rdma_ctl_enabled.txt"), "enabled"),
        (recorded("rdma_ctl_disabled.txt"), "disabled"),
        ("RDMA is enabled\n", "enabled"),
        ("rdma_ctl: not supported on this hardware\n", "unsupported"),
        ("zsh: command not found: rdma_ctl\n", "unsupported"),
        ("", "unknown"),
    ],
)
def test_the_state_of_rdma_is_parsed(text: str, state: str) -> None:
    assert rdma_state(text) == state


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("ibv_devices_m5max_peer.txt", ("rdma_en1", "rdma_en6", "rdma_en2")),
        ("ibv_devices_m3ultra.txt", tuple(f"rdma_en{number}" for number in range(2, 8))),
        ("ibv_devices_rdma_off.txt", ()),
        ("ibv_devinfo_m5max_peer.txt", ()),
    ],
)
def test_rdma_devices_are_parsed(name: str, devices: tuple[str, ...]) -> None:
    assert rdma_devices(recorded(name)) == devices


def _with_speed(speed: str) -> str:
    text = recorded("thunderbolt_two_macs_tb4.json")
    return re.sub(r'("current_speed_key"\s*:\s*)"[^"]*"', rf'\1"{speed}"', text)


@pytest.mark.parametrize(
    ("speed", "gbps"),
    [
        ("Up to 40 Gb/s", 40.0), ("Bis zu 40 Gbit/s", 40.0), ("Jusqu’à 40 Gbits/s", 40.0),
        ("40 Gbps", 40.0), ("hasta 20,5 Gb/s", 20.5), ("unknown", 0.0),
    ],
)  # fmt: skip
def test_speeds_are_parsed_in_any_language(speed: str, gbps: float) -> None:
    assert {port.gbps for port in thunderbolt_ports(_with_speed(speed)) if port.peer} == {gbps}


def test_a_line_before_the_json_is_ignored() -> None:
    text = recorded("thunderbolt_two_macs_tb4.json")
    noisy = f"2026-01-02 03:04:05.678 system_profiler[321:4567] hello\n{text}"
    assert thunderbolt_ports(noisy) == thunderbolt_ports(text)


def test_a_machine_without_thunderbolt_has_no_ports() -> None:
    assert thunderbolt_ports('{"SPThunderboltDataType" : []}') == ()


def test_a_cable_between_two_ports_of_one_mac_leads_to_no_peer() -> None:
    buses = [
        {
            "receptacle_1_tag": {"receptacle_status_key": "receptacle_connected"},
            "domain_uuid_key": own,
            "_items": [{"_name": "Mac", "domain_uuid_key": other}],
        }
        for own, other in ("AB", "BA")
    ]
    ports = thunderbolt_ports(json.dumps({"SPThunderboltDataType": buses}))
    assert [(port.peer, port.peer_domain) for port in ports] == [("", "")] * 2


def test_rdma_that_is_not_enabled_is_disabled() -> None:
    assert rdma_state("RDMA is not enabled.\n") == "disabled"
