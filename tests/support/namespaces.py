"""Network namespaces as machines, with bridges, routers, shaped links and services."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pomona.messages.control import Pipeline, PlannerFacts
from pomona.messages.discovery import DiscoveryFacts
from pomona.parent_watch import LIFELINE_VARIABLE
from support.beacon_listener import BeaconListener
from support.members import join
from support.processes import lifeline

PEER_PORT = 52418
LINK_DEADLINE_S = 60.0
"""Seconds within which nodes find each other and measure their links."""


def sh(command: str) -> str:
    """Returns the output of a command. Raises OSError with its standard error."""
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """Makes namespaces whose names begin with ``tag``. Closing the stack deletes them."""

    def __init__(self, stack: ExitStack, tag: str) -> None:
        self.tag = tag
        self._stack = stack

    def space(self, name: str) -> str:
        """Returns the name of a namespace, creating it if needed."""
        space = f"{self.tag}{name}"
        if space not in sh("ip netns list").split():
            sh(f"ip netns add {space}")
            self._stack.callback(sh, f"ip netns del {space}")
            self.run(name, "ip link set lo up")
        return space

    def run(self, name: str, command: str) -> str:
        return sh(f"ip netns exec {self.tag}{name} {command}")

    def bridge(self, switch: str, name: str, address: str = "") -> None:
        """Adds a bridge to the switch's namespace. With an address it is also a gateway."""
        self.space(switch)
        self.run(switch, f"ip link add {name} type bridge mcast_snooping 0")
        if address:
            self.run(switch, f"ip address add {address}/24 dev {name}")
        self.run(switch, f"ip link set {name} up")

    def plug(self, node: str, interface: str, address: str, switch: str, bridge: str = "") -> None:
        """Connects a new interface of a node to a bridge, or to a port with the gateway's
        address."""
        space, port = self.space(node), f"{node}{interface}"
        self.space(switch)
        sh(
            f"ip link add {port} netns {self.tag}{switch} type veth "
            f"peer name {interface} netns {space}"
        )
        self.run(node, f"ip address add {address}/24 dev {interface}")
        self.run(node, f"ip link set {interface} up")
        if bridge:
            self.run(switch, f"ip link set {port} master {bridge}")
        else:
            gateway = address.rpartition(".")[0] + ".254"
            self.run(switch, f"ip address add {gateway}/24 dev {port}")
        self.run(switch, f"ip link set {port} up")

    def route_through(self, node: str, gateway: str) -> None:
        self.run(node, f"ip route add default via {gateway}")

    def shape(self, node: str, interface: str, mbit: int) -> None:
        """Limits the rate at which the node sends through an interface."""
        self.run(
            node,
            f"tc qdisc replace dev {interface} root tbf rate {mbit}mbit burst 64kb latency 200ms",
        )

    def start(self, node: str, folder: Path, module: str, **settings: str) -> None:
        """Starts a service in a node's namespace.

        Args:
            settings: variables without their prefix ``POMONA_``.
        """
        join(folder, settings.get("CLUSTER", self.tag), node, folder / node)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("POMONA_")}
        environment |= {
            "POMONA_HEALTH_WATCHER_DISK_FREE_WARNING": "0",
            "POMONA_NODE": node,
            "POMONA_CLUSTER": self.tag,
            "POMONA_STATE_DIR": str(folder / node),
            "POMONA_CONTROL_PUBLISH": f"ipc://{folder}/{node}.in",
            "POMONA_CONTROL_SUBSCRIBE": f"ipc://{folder}/{node}.out",
            "POMONA_DATA_HOST": "0.0.0.0",
            "POMONA_DISCOVERY_PEER_HOST": "0.0.0.0",
            "POMONA_DISCOVERY_PEER_PORT": str(PEER_PORT),
            "POMONA_DISCOVERY_PROBE_INTERVAL_S": "2",
        }
        environment |= {f"POMONA_{name}": value for name, value in settings.items()}
        log = self._stack.enter_context((folder / f"{node}.{module}.log").open("wb"))
        process = subprocess.Popen(
            ["ip", "netns", "exec", f"{self.tag}{node}", sys.executable, "-m", module],
            env=environment | {LIFELINE_VARIABLE: str(lifeline())},
            pass_fds=(lifeline(),),
            stdout=log,
            stderr=log,
        )

        def end() -> None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(60)

        self._stack.callback(end)


@contextmanager
def network(name: str) -> Generator[Network]:
    """Yields a network. Skips the test where namespaces or shaping are not available.

    Args:
        name: one or two letters, unique among the tests.
    """
    with ExitStack() as stack:
        made = Network(stack, f"pt{name}{os.getpid() % 10000}")
        try:
            made.space("x")
            made.run("x", "tc qdisc replace dev lo root tbf rate 1gbit burst 64kb latency 1ms")
        except OSError as error:
            pytest.skip(f"network namespaces with shaping need root, ip and tc: {error}")
        yield made


class NamespaceListener(BeaconListener):
    """Receives the beacons that reach one node."""

    def __init__(self, folder: Path, node: str, cluster: str) -> None:
        super().__init__(f"ipc://{folder}/{node}.out", cluster)

    @property
    def discoveries(self) -> dict[str, DiscoveryFacts]:
        """Facts of every discovery service, by node."""
        return {
            beacon.node: beacon.facts
            for beacon in self.newest.values()
            if isinstance(beacon.facts, DiscoveryFacts)
        }

    @property
    def troubles(self) -> str:
        """The troubles that discovery services report, one a line."""
        return "\n".join(x for facts in self.discoveries.values() for x in facts.troubles)

    @property
    def pipeline(self) -> Pipeline | None:
        found = [b.facts for b in self.newest.values() if isinstance(b.facts, PlannerFacts)]
        return next((x for facts in found for x in facts.pipelines), None)
