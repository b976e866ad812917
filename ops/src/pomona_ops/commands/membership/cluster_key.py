"""``pomona cluster``: moves the cluster's key, so that a dead head is no dead cluster."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from pomona.errors import ConfigurationError, TrustError
from pomona.messages.discovery import DiscoveryFacts
from pomona.private_files import write_privately
from pomona.trust import Trust
from pomona.trust import roster as rosters
from pomona.trust.trust import forget
from pomona_ops.cluster.started import Target
from pomona_ops.commands.membership.node import (
    ANY,
    beacons_of,
    head_trust,
    keep_network,
    open_trust,
    own_discovery,
)

MAX_FILE_BYTES: Final = 1 << 16


_Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_KeyOrNone = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


@dataclass(frozen=True, slots=True)
class ExportedKey:
    """The content of an exported file.

    Attributes:
        cluster: id of the cluster.
        name: name of the cluster.
        secret: its secret key, hexadecimal.
        node_public, node_secret: keys of the head that exported it, with which a new machine takes
            its place; empty in files of earlier versions.
        roster: the roster at that time, as beacons carry it.
        peers: endpoints of the other members' discovery services at that time.
    """

    cluster: str
    name: str
    secret: _Key
    kind: Literal["pomona cluster key"] = "pomona cluster key"
    node_public: _KeyOrNone = ""
    node_secret: _KeyOrNone = ""
    roster: str = ""
    peers: tuple[str, ...] = ()


_EXPORTED = TypeAdapter(ExportedKey)


def export_key(target: Target, output: str) -> int:
    """Writes the cluster's key to a file that only its owner reads, or to standard output.

    Raises ConfigurationError for a file that exists, TrustError where the key is not here.
    """
    trust = head_trust(target, "pomona cluster export")
    current = trust.roster
    content = orjson.dumps(
        ExportedKey(
            current.cluster,
            current.name,
            trust.export_cluster_key(),
            node_public=trust.keys.public,
            node_secret=trust.keys.secret,
            roster=trust.encoded(),
            peers=_peers(target, trust),
        ),
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )
    if output == "-":
        sys.stdout.buffer.write(content)
        return 0
    path = Path(output).expanduser()
    if path.exists():
        raise ConfigurationError(f"{path} exists already; name another file")
    try:
        write_privately(path, content)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    print(
        f"{path} has the keys of {current.name} and of this machine. Whoever has it can admit "
        "nodes: keep it off the network, for example on a disk in a drawer"
    )
    return 0


def import_key(target: Target, source: str, as_json: bool) -> int:
    """Makes this member a head of its cluster, or this new machine the head that is lost.

    Returns 0. Raises ConfigurationError when the file cannot be read, TrustError when it is not
    the key of this node's cluster.
    """
    try:
        content = (
            sys.stdin.buffer.read(MAX_FILE_BYTES)
            if source == "-"
            else Path(source).expanduser().read_bytes()
        )
        found = _EXPORTED.validate_json(content)
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigurationError(
            f"{source} is not an exported key; `pomona cluster export` on the head writes one"
        ) from error
    known = Trust.load(target.state_dir)
    is_alone = known is None or (
        known.roster.cluster != found.cluster and len(known.roster.members) == 1
    )
    if is_alone and found.roster and found.node_public:
        return _replace_head(target, found, as_json)
    trust = open_trust(target)
    if trust.roster.cluster != found.cluster:
        raise TrustError(
            f"{source} is the key of {found.name}, and this machine belongs to "
            f"{trust.roster.name}: import it on a member of {found.name}"
        )
    after = trust.import_cluster_key(found.secret)
    if as_json:
        print(orjson.dumps({"cluster": after.name, "version": after.version}).decode())
    else:
        print(
            f"this machine is a head of {after.name} now. Start the planner and the gateway here "
            "with `pomona up MODEL`; revoke the old head with `pomona revoke` if it is lost"
        )
    return 0


def _peers(target: Target, trust: Trust) -> tuple[str, ...]:
    """Returns where the other members' discovery services are; none when nothing runs here."""
    own = trust.member
    beacon = own_discovery(beacons_of(target), own.name) if own is not None else None
    return beacon.facts.peers if beacon and isinstance(beacon.facts, DiscoveryFacts) else ()


def _replace_head(target: Target, found: ExportedKey, as_json: bool) -> int:
    """Takes the place of the head that exported the key. Raises TrustError."""
    roster = rosters.decode(found.roster.encode())
    head = roster.by_key(found.node_public)
    if head is None:
        raise TrustError("the head that exported this key is not in its roster")
    rosters.check(roster)
    forget(target.state_dir)
    trust = Trust.replace_head(
        target.state_dir, found.node_public, found.node_secret, roster, found.secret
    )
    keep_network(
        target.state_dir,
        {"node": head.name, "data_host": ANY},
        {"peer_host": ANY, "peers": list(found.peers)},
    )
    after = trust.roster
    if as_json:
        print(orjson.dumps({"cluster": after.name, "version": after.version}).decode())
    else:
        print(
            f"this machine is {head.name}, a head of {after.name}, now. Never start the old one "
            "again. Start the services here with `pomona up MODEL`"
            f"{_searching(found.peers)}"
        )
    return 0


def _searching(peers: tuple[str, ...]) -> str:
    if peers:
        return ""
    return (
        "; the file names no addresses of other machines, so they are found by multicast DNS, or "
        "set POMONA_DISCOVERY_PEERS"
    )
