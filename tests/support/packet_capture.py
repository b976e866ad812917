"""Records every packet that passes a namespace, like one with a bridge."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from support.waiting import wait_until

_RECORDER = """
import socket, struct, sys
ALL = 3  # ETH_P_ALL of <linux/if_ether.h>
OUTGOING = 4  # PACKET_OUTGOING of <linux/if_packet.h>: each packet once
IGNORED = int(sys.argv[2])
def is_ignored(packet):
    ports = packet[14 + 4 * (packet[14] & 15) :][:4] if len(packet) > 34 else b""
    return len(ports) == 4 and IGNORED in struct.unpack(">HH", ports)
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL)) as source:
    source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    with open(sys.argv[1], "wb", buffering=0) as file:
        file.write(b"begin\\n")
        while True:
            packet, address = source.recvfrom(1 << 18)
            if address[2] == OUTGOING and not is_ignored(packet):
                file.write(packet)
"""


@contextmanager
def captured(space: str, path: Path, ignored_port: int = 0) -> Generator[Path]:
    """Writes the packets on all interfaces of a namespace to a file while the block runs.

    Args:
        ignored_port: TCP port whose packets are left out.
    """
    process = subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            space,
            sys.executable,
            "-c",
            _RECORDER,
            str(path),
            str(ignored_port),
        ]
    )
    try:
        wait_until(lambda: path.exists() and path.stat().st_size > 0, "the capture runs")
        yield path
    finally:
        process.terminate()
        process.wait(60)
