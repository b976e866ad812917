"""Makes the nodes of a test members of one cluster, as an invitation would."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from pomona.trust import Member, Trust
from pomona.trust import roster as rosters

_clusters: dict[tuple[Path, str], dict[Path, Trust]] = {}


def join(root: Path, cluster: str, node: str, state_dir: Path) -> Trust:
    """Makes a node a member of the test's cluster of this name. Every node may plan.

    Args:
        root: folder of the test; clusters of two tests never meet.
    """
    members = _clusters.setdefault((root, cluster), {})
    if state_dir in members:
        return members[state_dir]
    trust = Trust.open(state_dir, node, cluster)
    if members:
        head = next(iter(members.values()))
        own = Member(trust.keys.id, trust.keys.public, node, "head", invited_by=head.keys.id)
        roster = head.change(lambda x: rosters.with_member(x, own))
        trust = Trust.joined(state_dir, roster)
        for other in members.values():
            other.offer(roster)
    members[state_dir] = trust
    return trust


@cache
def scripted_keys() -> Trust:
    """Returns the keys of the node ``near``, which scripted clusters and their gateways share."""
    folder = Path(tempfile.mkdtemp(prefix="pomona-keys-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Trust.open(folder, "near", "pomona")


def lend_scripted_keys(state_dir: Path) -> None:
    """Gives the keys of :func:`scripted_keys` to a process with this state folder."""
    shutil.copytree(scripted_keys().folder, state_dir / "trust")
