"""Faults of the network and of whole sets of services: texts stay the undisturbed ones.

Times are generous: other work slows this machine down.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Sequence

import pytest

from support.chaos.streams import Stream, ended, started, wait_for_more
from support.chaos.two_nodes import ADDRESSES, NODES, TwoNodes, two_nodes

pytestmark = pytest.mark.soak

STREAMS = 4
TOKENS = 160
BEFORE = 8
"""Chunks that each stream has received when the fault begins."""
NEXT_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[TwoNodes]:
    with two_nodes(tmp_path_factory.mktemp("network"), "y") as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(cluster: TwoNodes) -> list[str]:
    return ended(streams(cluster))


def streams(cluster: TwoNodes, chunks: int = 0) -> Sequence[Stream]:
    return started([cluster.stream(number, TOKENS) for number in range(STREAMS)], chunks)


def kill_workers(cluster: TwoNodes) -> None:
    for node in ADDRESSES:
        cluster.signal(f"{node}.stage_worker", signal.SIGKILL)


def lose_plan(cluster: TwoNodes) -> None:
    for name in ("plan.json", "models.json"):
        (cluster.folder / "h" / name).unlink(missing_ok=True)
    cluster.signal("h.planner", signal.SIGKILL)


def partition(cluster: TwoNodes, senders: Sequence[str], seconds: float) -> None:
    for sender in senders:
        cluster.swallow(sender)
    time.sleep(seconds)
    for sender in senders:
        cluster.deliver(sender)


def reboot(cluster: TwoNodes) -> None:
    """Ends the services of a machine without a sign: connections stay half open."""
    cluster.swallow("w")
    for service in ("stage_worker", "discovery"):
        cluster.signal(f"w.{service}", signal.SIGKILL)
    time.sleep(5.0)
    cluster.deliver("w")


FAULTS: dict[str, Callable[[TwoNodes], None]] = {
    "all stage workers are killed": kill_workers,
    "the head's stage worker is stopped": lambda cluster: stop(cluster, "h.stage_worker"),
    "the tail's stage worker is stopped": lambda cluster: stop(cluster, "w.stage_worker"),
    "the planner restarts without its files": lose_plan,
    "discovery is killed": lambda cluster: kill(cluster, "h.discovery"),
    "the network swallows everything for 40 s": lambda cluster: partition(cluster, "hw", 40.0),
    "what the tail sends is lost for 15 s": lambda cluster: partition(cluster, "w", 15.0),
    "what the head sends is lost for 15 s": lambda cluster: partition(cluster, "h", 15.0),
    "the tail's machine reboots": reboot,
    "the network swallows everything for 2 s": lambda cluster: partition(cluster, "hw", 2.0),
}


def stop(cluster: TwoNodes, name: str) -> None:
    assert cluster.signal(name, signal.SIGSTOP)


def kill(cluster: TwoNodes, name: str) -> None:
    assert cluster.signal(name, signal.SIGKILL)


@pytest.mark.timeout(600)
def test_answers_are_had_again_by_their_keys_after_a_reboot_of_the_head(
    cluster: TwoNodes, undisturbed: list[str]
) -> None:
    def keyed(chunks: int = 0) -> Sequence[Stream]:
        all_ = [cluster.stream(n, TOKENS, key=f"facts {n}") for n in range(STREAMS)]
        return started(all_, chunks)

    cut_off = keyed(BEFORE)
    cluster.swallow("h")
    for service in NODES["h"]:
        cluster.signal(f"h.{service}", signal.SIGKILL)
    cluster.deliver("h")
    for stream in cut_off:
        stream.join(NEXT_S)
    cluster.wait_ready()
    assert ended(keyed()) == undisturbed


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_no_answer(cluster: TwoNodes, undisturbed: list[str], fault: str) -> None:
    running = streams(cluster, BEFORE)
    FAULTS[fault](cluster)
    over_at = time.monotonic()
    wait_for_more([x for x in running if x.is_alive()], NEXT_S)
    later_s = time.monotonic() - over_at
    print(f"{fault}: more text {later_s:.1f} s after it")
    assert ended(running) == undisturbed
    cluster.wait_ready()
