"""The key pair of one node, made at its first start and bound to its machine."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import orjson
from pydantic import StringConstraints, TypeAdapter, ValidationError

from pomona import host
from pomona.errors import ClonedKeyError, TrustError
from pomona.private_files import write_privately
from pomona.trust.roster import Key
from pomona.trust.signing import new_curve_keys, short_id

FILE: Final = "node.json"

_Text = Annotated[str, StringConstraints(max_length=256)]


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """Curve25519 key pair of a node, in hexadecimal.

    Attributes:
        machine: digest of the hardware UUID of the machine that made it; empty where it is
            unknown.
        host: host name of that machine, for messages.
    """

    public: Key
    secret: Key
    machine: _Text = ""
    host: _Text = ""

    @property
    def id(self) -> str:
        return node_id(self.public)


_KEYS = TypeAdapter(NodeKeys)


def node_id(public: str) -> str:
    """Returns the id of the node with this public key."""
    return short_id(public)


def new_node_keys() -> NodeKeys:
    """Makes a key pair for this machine."""
    public, secret = new_curve_keys()
    return NodeKeys(public, secret, machine_digest(), socket.gethostname()[:256])


def read_node_keys(folder: Path) -> NodeKeys | None:
    """Reads the key pair in ``folder``; None when there is none.

    Raises ClonedKeyError when another machine made it, TrustError when it cannot be read.
    """
    path = folder / FILE
    try:
        keys = _KEYS.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise TrustError(
            f"{path} is not a valid key of a node; restore it, or delete {folder} and join the "
            "cluster again"
        ) from error
    here = machine_digest()
    if keys.machine and here and keys.machine != here:
        raise ClonedKeyError(keys.host, socket.gethostname(), path)
    return keys


def write_node_keys(folder: Path, keys: NodeKeys) -> None:
    """Writes the key pair, for its owner only. Raises OSError."""
    write_privately(folder / FILE, orjson.dumps(keys))


def machine_digest() -> str:
    """Returns a digest of this machine's hardware UUID; empty where that is unknown."""
    uuid = host.hardware_uuid()
    return hashlib.sha256(f"pomona machine {uuid}".encode()).hexdigest()[:32] if uuid else ""
