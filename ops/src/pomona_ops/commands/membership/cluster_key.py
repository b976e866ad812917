"""``pomona cluster``: moves the cluster's key, so that a dead head is no dead cluster."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from pomona.errors import ConfigurationError, TrustError
from pomona.private_files import write_privately
from pomona_ops.cluster.started import Target
from pomona_ops.commands.membership.node import head_trust, open_trust

MAX_FILE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class ExportedKey:
    """The content of an exported file.

    Attributes:
        cluster: id of the cluster.
        name: name of the cluster.
        secret: its secret key, hexadecimal.
    """

    cluster: str
    name: str
    secret: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    kind: Literal["pomona cluster key"] = "pomona cluster key"


_EXPORTED = TypeAdapter(ExportedKey)


def export_key(target: Target, output: str) -> int:
    """Writes the cluster's key to a file that only its owner reads, or to standard output.

    Raises ConfigurationError for a file that exists, TrustError where the key is not here.
    """
    trust = head_trust(target, "pomona cluster export")
    current = trust.roster
    content = orjson.dumps(
        ExportedKey(current.cluster, current.name, trust.export_cluster_key()),
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
        f"{path} has the key of {current.name}. Whoever has it can admit nodes: keep it off the "
        "network, for example on a disk in a drawer"
    )
    return 0


def import_key(target: Target, source: str, as_json: bool) -> int:
    """Makes this member a head of its cluster. Returns 0.

    Raises ConfigurationError when the file cannot be read, TrustError when it is not the key of
    this node's cluster.
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
