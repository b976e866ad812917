"""The roster: the signed list of a cluster's members. Pure.

The cluster's id is derived from its first signing key. Each later key is signed by the one before,
so a node that knows any key of the chain accepts every roster that is signed by a later one. Of two
valid rosters the higher version wins; of two with one version, the one whose bytes sort last, so
that all nodes choose the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Final, Literal

import orjson
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from pomona.errors import TrustError
from pomona.messages.limits import MAX_NODES, MAX_ROSTER_BYTES, Count, Name, UnixTime
from pomona.trust.signing import is_signed, public_signing_key, short_id, sign

Role = Literal["head", "member"]
"""A head may plan. Every member may compute, run a gateway and watch."""

MAX_KEY_CHANGES: Final = 256
CLUSTER_PREFIX: Final = "pomona-"

Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{128})?$")]
NodeId = Annotated[str, StringConstraints(pattern=r"^([a-z2-7]{16})?$")]


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the cluster.

    Attributes:
        id: derived from ``key``.
        key: public Curve25519 key.
        name: name of the node, unique in the roster.
        since: Unix time at which it became a member, by the clock of the head. Nothing depends on
            it.
        invited_by: id of the node that invited it; empty for the founder.
    """

    id: NodeId
    key: Key
    name: Name
    role: Role
    since: UnixTime = 0.0
    invited_by: NodeId = ""


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A later key of the cluster, signed by the key before it."""

    key: Key
    signature: Signature


@dataclass(frozen=True, slots=True)
class Roster:
    """Members of one cluster at one version.

    Attributes:
        cluster: id of the cluster, derived from ``first_key``.
        name: name of the cluster, which beacons carry; by default its id.
        version: rises with every change.
        first_key: first public Ed25519 key of the cluster.
        key_changes: its later keys in order.
        signature: of all other fields, by the last key.
    """

    cluster: Name
    name: Name
    version: Count
    first_key: Key
    key_changes: Annotated[tuple[KeyChange, ...], Field(max_length=MAX_KEY_CHANGES)]
    members: Annotated[tuple[Member, ...], Field(max_length=MAX_NODES)]
    signature: Signature = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of the cluster, oldest first."""
        return (self.first_key, *(change.key for change in self.key_changes))

    @property
    def key(self) -> str:
        """The key that signs now."""
        return self.keys[-1]

    def by_id(self, node_id: str) -> Member | None:
        return next((x for x in self.members if x.id == node_id), None)

    def by_key(self, key: str) -> Member | None:
        return next((x for x in self.members if x.key == key), None)

    def by_name(self, name: str) -> Member | None:
        return next((x for x in self.members if x.name == name), None)

    def owner_of(self, service: str) -> Member | None:
        """Returns the member with whose name that of a service begins; the longest such name."""
        found = [x for x in self.members if service.startswith(f"{x.name}.")]
        return max(found, key=lambda member: len(member.name), default=None)


_ROSTER = TypeAdapter(Roster)


def found(name: str, members: Iterable[Member], secret: str) -> Roster:
    """Returns the first roster of a new cluster.

    Args:
        name: name of the cluster; empty takes its id.
        secret: the new cluster's Ed25519 secret key.
    """
    key = public_signing_key(secret)
    cluster = CLUSTER_PREFIX + short_id(key)
    return signed(Roster(cluster, name or cluster, 1, key, (), tuple(members)), secret)


def signed(roster: Roster, secret: str) -> Roster:
    """Returns the roster with its signature. Raises TrustError for a key that is not its last."""
    if public_signing_key(secret) != roster.key:
        raise TrustError(
            f"the key on this machine does not sign for {roster.name} any more; import the "
            "cluster's newest key with `pomona cluster import`"
        )
    return replace(roster, signature=sign(secret, canonical_bytes(roster)))


def changed(roster: Roster, secret: str, change: Callable[[Roster], Roster]) -> Roster:
    """Returns the next version of a roster, signed. Raises TrustError when it is not valid."""
    following = signed(replace(change(roster), version=roster.version + 1), secret)
    check(following)
    return following


def with_member(roster: Roster, member: Member) -> Roster:
    """Returns the roster with a member, in place of one with the same id or name."""
    others = tuple(x for x in roster.members if x.id != member.id and x.name != member.name)
    return replace(roster, members=(*others, member))


def without_member(roster: Roster, node_id: str) -> Roster:
    return replace(roster, members=tuple(x for x in roster.members if x.id != node_id))


def with_key(roster: Roster, old_secret: str, new_secret: str) -> Roster:
    """Returns the next version under a new key of the cluster, signed by the new key."""
    key = public_signing_key(new_secret)
    change = KeyChange(key, sign(old_secret, _key_change_bytes(roster.cluster, key)))
    chained = replace(roster, key_changes=(*roster.key_changes, change))
    return changed(chained, new_secret, lambda x: x)


def canonical_bytes(roster: Roster) -> bytes:
    """Returns the bytes that are signed: every field but the signature, as JSON in sorted order."""
    fields = asdict(replace(roster, signature=""))
    return b"pomona roster 1\n" + orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def encode(roster: Roster) -> bytes:
    return orjson.dumps(roster)


def decode(content: bytes) -> Roster:
    """Raises TrustError when the bytes are not a roster. Does not verify signatures."""
    if len(content) > MAX_ROSTER_BYTES:
        raise TrustError(f"a roster of {len(content)} bytes is over {MAX_ROSTER_BYTES}")
    try:
        return _ROSTER.validate_json(content, strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, detail["loc"]))
        raise TrustError(f"not a valid roster: {where}: {detail['msg']}") from error


def check(roster: Roster) -> None:
    """Verifies ids, names, the chain of keys and the signature. Raises TrustError."""
    if roster.cluster != CLUSTER_PREFIX + short_id(roster.first_key):
        raise TrustError(f"{roster.cluster} is not the id of its first key")
    for member in roster.members:
        if member.id != short_id(member.key):
            raise TrustError(f"{member.id} is not the id of the key of {member.name}")
    for what in ("id", "name"):
        values = [getattr(member, what) for member in roster.members]
        if len(set(values)) < len(values):
            raise TrustError(f"two members have one {what}")
    for before, change in zip(roster.keys, roster.key_changes, strict=False):
        message = _key_change_bytes(roster.cluster, change.key)
        if not is_signed(before, message, change.signature):
            raise TrustError(f"a key of {roster.name} is not signed by the key before it")
    if not is_signed(roster.key, canonical_bytes(roster), roster.signature):
        raise TrustError(f"the roster of {roster.name} is not signed by its key")


def newest(known: Roster, offered: Roster) -> Roster:
    """Returns the roster to keep: ``offered`` when it is a valid successor of ``known``.

    It must be of the same cluster, its chain must contain every key of ``known``, in order, and
    it must be newer. A roster that a replaced key has signed is therefore never accepted.
    """
    is_successor = (
        offered.cluster == known.cluster
        and offered.keys[: len(known.keys)] == known.keys
        and _order(offered) > _order(known)
    )
    if not is_successor:
        return known
    try:
        check(offered)
    except TrustError:
        return known
    return offered


def _order(roster: Roster) -> tuple[int, bytes]:
    return roster.version, canonical_bytes(roster)


def _key_change_bytes(cluster: str, key: str) -> bytes:
    return f"pomona cluster key 1\n{cluster}\n{key}".encode()
