"""``pomona keys rotate`` and ``pomona keys new``: new keys for the cluster and for this node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import orjson

from pomona.errors import ConfigurationError, TrustError
from pomona.messages.doorstep import Refused, Rekey, Reply, Welcome
from pomona.transport.doorstep import DoorstepClient
from pomona.trust import Trust, roster
from pomona.trust.node_keys import NodeKeys, new_node_keys, write_node_keys
from pomona.trust.trust import FOLDER, forget
from pomona_ops.cluster.started import Target
from pomona_ops.commands.membership.node import head_door, open_trust

ANSWER_S: Final = 10.0


def rotate_cluster_key(target: Target, as_json: bool) -> int:
    """Replaces the cluster's key by one that the present one signs. Returns 0.

    Raises TrustError when the key is not on this machine.
    """
    after = open_trust(target).rotate_cluster_key()
    _say(
        as_json,
        {"rotated": "cluster", "version": after.version},
        f"{after.name} has a new key (roster version {after.version}). Nodes that are off take it "
        "when they return. Export it again: what was exported before no longer signs",
    )
    return 0


def rotate_node_key(target: Target, as_json: bool) -> int:
    """Replaces the key of this node, with the head's consent. Returns 0.

    Raises ConfigurationError when this node is not a member, TrustError when the head does not
    agree, LinkError when it does not answer.
    """
    trust, keys = open_trust(target), new_node_keys()
    own = trust.member
    if own is None:
        raise ConfigurationError("this node is not a member of a cluster; join one first")
    if trust.has_cluster_key:
        renewed = replace(own, id=keys.id, key=keys.public)
        after = trust.change(lambda x: roster.with_member(x, renewed))
        write_node_keys(target.state_dir / FOLDER, keys)
    else:
        after = _renewed_by_head(target, trust, keys)
        write_node_keys(target.state_dir / FOLDER, keys)
        Trust.joined(target.state_dir, after)
    _say(
        as_json,
        {"rotated": "node", "id": keys.id, "version": after.version},
        f"{own.name} has a new key, {keys.public[:8]}. `pomona up` starts its services again with "
        "it; services of launchd and systemd must be started again",
    )
    return 0


def new_node_key(state_dir: Path, as_json: bool) -> int:
    """Moves keys and roster of a copied state folder aside. Returns 0."""
    aside = forget(state_dir)
    _say(
        as_json,
        {"aside": str(aside or "")},
        f"this machine gets a key of its own at its next start; the old one is in {aside}. Now "
        "`pomona join` it, or start its own cluster with `pomona up`"
        if aside
        else "this machine has no key yet",
    )
    return 0


def _renewed_by_head(target: Target, trust: Trust, keys: NodeKeys) -> roster.Roster:
    """Returns the roster in which the head has put the new key."""
    (host, port), head_key = head_door(target, trust)
    with DoorstepClient(
        f"tcp://{host}:{port}", head_key, trust.keys.public, trust.keys.secret
    ) as door:
        reply: Reply = door.ask(Rekey(keys.public), ANSWER_S)
    if isinstance(reply, Welcome):
        found = roster.decode(reply.roster.encode())
        if found.cluster == trust.roster.cluster:
            return found
    said = reply.said if isinstance(reply, Refused) else "an answer of another cluster"
    raise TrustError(f"the head did not take the new key: {said}")


def _say(as_json: bool, content: dict[str, object], said: str) -> None:
    print(orjson.dumps(content).decode() if as_json else said)
