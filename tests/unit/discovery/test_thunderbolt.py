"""Thunderbolt ports and RDMA, parsed from recorded output of a Mac's commands."""

from __future__ import annotations

import pytest

from pomona_discovery.thunderbolt import rdma_devices, rdma_state, thunderbolt_ports
from support import mac_recordings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (mac_recordings.MESH, [(5, 80, "mini-2", 0), (5, 120, "mini-3", 0), (5, 0, "", 0)]),
        (mac_recordings.OLD_CABLE, [(5, 40, "mini-2", 0)]),
        (mac_recordings.THUNDERBOLT_4, [(4, 40, "mini-m4", 0)]),
        (mac_recordings.DAISY_CHAIN, [(5, 80, "mini-3", 1)]),
        (mac_recordings.HUB, [(5, 80, "studio", 1)]),
        (mac_recordings.NOTHING_CONNECTED, [(5, 0, "", 0)]),
    ],
)
def test_ports_have_generation_speed_peer_and_hops(
    text: str, expected: list[tuple[int, float, str, int]]
) -> None:
    found = [(p.generation, p.gbps, p.peer, p.hops) for p in thunderbolt_ports(text)]
    assert found == expected


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"SPThunderboltDataType": 3}'])
def test_invalid_output_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # message of the JSON library, or ours
        thunderbolt_ports(text)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("enabled\n", "enabled"),
        ("RDMA is disabled\n", "disabled"),
        ("rdma_ctl: not supported on this hardware\n", "unsupported"),
        ("zsh: command not found: rdma_ctl\n", "unsupported"),
        ("", "unknown"),
    ],
)
def test_the_state_of_rdma_is_parsed(text: str, state: str) -> None:
    assert rdma_state(text) == state


def test_rdma_devices_are_parsed() -> None:
    assert rdma_devices(mac_recordings.IBV_DEVICES) == ("rdma_en2", "rdma_en3")
    assert rdma_devices(mac_recordings.IBV_NONE) == ()
