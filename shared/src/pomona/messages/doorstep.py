"""Messages between a machine that wants to join, or a new key, and the head's doorstep.

The connection is encrypted, and proves the public keys of both sides. The joiner asks, the head
answers each request with one message. Encode and decode are pure; decoding checks every field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, TypeVar

import orjson
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from pomona.errors import ProtocolError
from pomona.messages.limits import MAX_NODES, Endpoint, Name, Text

DOORSTEP_VERSION: Final = 1
MAX_REQUEST_BYTES: Final = 4096
MAX_REPLY_BYTES: Final = 1 << 20
MAX_ROSTER_CHARACTERS: Final = 900_000

Nonce = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Commitment = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Machine = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,64}$")]
"""Digest of a hardware UUID; empty where it is unknown."""


@dataclass(frozen=True, slots=True)
class Join:
    """Shows an invitation.

    Attributes:
        secret: the invitation's secret, hexadecimal.
        version: Pomona's version.
        is_default_name: the name was not chosen by a person, so another one like it will do.
    """

    kind: Literal["join"] = field(default="join", kw_only=True)
    secret: Nonce
    name: Name
    machine: Machine
    version: Text = ""
    is_default_name: bool = False


@dataclass(frozen=True, slots=True)
class Knock:
    """Asks to be let in without an invitation. The answer is a :class:`Challenge`."""

    kind: Literal["knock"] = field(default="knock", kw_only=True)
    commitment: Commitment
    name: Name
    machine: Machine
    version: Text = ""


@dataclass(frozen=True, slots=True)
class Reveal:
    """Reveals the nonce of the commitment, after which both sides know the digits."""

    kind: Literal["reveal"] = field(default="reveal", kw_only=True)
    nonce: Nonce


@dataclass(frozen=True, slots=True)
class Poll:
    """Asks whether a request was decided."""

    kind: Literal["poll"] = field(default="poll", kw_only=True)


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Takes a request back."""

    kind: Literal["withdraw"] = field(default="withdraw", kw_only=True)


@dataclass(frozen=True, slots=True)
class Rekey:
    """Replaces the key of the member that sends it; the answer is a :class:`Welcome`.

    Attributes:
        key: its next public key, hexadecimal.
    """

    kind: Literal["rekey"] = field(default="rekey", kw_only=True)
    key: PublicKey


@dataclass(frozen=True, slots=True)
class Challenge:
    """The head's nonce."""

    kind: Literal["challenge"] = field(default="challenge", kw_only=True)
    nonce: Nonce


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request waits for ``pomona approve`` on the head.

    Attributes:
        reason: ``approval``, or ``name_taken`` when another key has the name.
        said: the reason and the command, for people.
    """

    kind: Literal["waiting"] = field(default="waiting", kw_only=True)
    reason: Literal["approval", "name_taken"]
    said: Text


@dataclass(frozen=True, slots=True)
class Refused:
    """The request is refused.

    Attributes:
        code: ``wrong``, ``used``, ``expired``, ``cancelled``, ``paused``, ``denied``, ``clone``,
            ``busy``, ``unknown`` or ``version``.
        said: the reason and what to do, for people.
    """

    kind: Literal["refused"] = field(default="refused", kw_only=True)
    code: Text
    said: Text


@dataclass(frozen=True, slots=True)
class Welcome:
    """The machine is a member.

    Attributes:
        cluster: name of the cluster.
        name: name of the new member.
        head: name of the head.
        roster: the signed roster, as the trust store writes it.
        peers: endpoints of the cluster's discovery services; those of the head first, in which
            the host ``*`` stands for the address at which the joiner reached it.
    """

    kind: Literal["welcome"] = field(default="welcome", kw_only=True)
    cluster: Name
    name: Name
    head: Name
    roster: Annotated[str, StringConstraints(max_length=MAX_ROSTER_CHARACTERS)]
    peers: Annotated[tuple[Endpoint, ...], Field(max_length=MAX_NODES)] = ()


Request = Join | Knock | Reveal | Poll | Withdraw | Rekey
Reply = Welcome | Waiting | Challenge | Refused

_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])
_Message = TypeVar("_Message")


def encode(message: Request | Reply) -> bytes:
    """Returns a message as JSON."""
    return orjson.dumps(message)


def decode_request(content: bytes) -> Request:
    """Parses a joiner's message. Raises ProtocolError."""
    return _decode(_REQUEST, content, MAX_REQUEST_BYTES)


def decode_reply(content: bytes) -> Reply:
    """Parses a head's message. Raises ProtocolError."""
    return _decode(_REPLY, content, MAX_REPLY_BYTES)


def _decode(adapter: TypeAdapter[_Message], content: bytes, limit: int) -> _Message:
    if len(content) > limit:
        raise ProtocolError(f"a message of the doorstep has up to {limit} bytes")
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise ProtocolError(
            f"not a message of the doorstep: {detail['msg']}; both machines need the same version"
        ) from error
