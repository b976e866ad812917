"""Ledger of the head: its invitations, and the machines that want to join.

The functions are pure; :class:`LedgerFile` keeps the ledger in the state folder, where the
discovery service and the ``pomona`` command change it in turn. It has no secret: of an invitation
only the SHA-256 is stored. All times are Unix times of this machine, which alone decides what has
expired.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from pomona.errors import ConfigurationError
from pomona.messages.limits import Name
from pomona.private_files import FILE_MODE, make_folder, write_privately
from pomona.trust.digits import digits

FILE: Final = "joins.json"
LOCK: Final = "joins.lock"
VALID_S: Final = 600.0
"""Time for which an invitation is good."""
REQUEST_EXPIRY_S: Final = 600.0
"""Time after which a request is forgotten whose machine no longer asks."""
DECIDED_EXPIRY_S: Final = 86400.0
"""Time for which a refused machine is told so."""
MAX_INVITATIONS: Final = 64
"""Most invitations in the ledger; the oldest are forgotten."""
MAX_OPEN: Final = 16
"""Invitations that are good at the same time."""
MAX_REQUESTS: Final = 16
MAX_MACHINES: Final = 1024
MAX_FILE_BYTES: Final = 1 << 20

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
ShortText = Annotated[str, Field(max_length=200)]
Verdict = Literal["waiting", "approved", "denied"]


@dataclass(frozen=True, slots=True)
class IssuedInvitation:
    """An invitation as the head remembers it.

    Attributes:
        digest: SHA-256 of the secret, hexadecimal.
        used_by: public key of the machine that used it; empty before.
        used_as: name of that machine.
    """

    digest: Hex
    issued_at: float
    expires_at: float
    used_by: ShortText = ""
    used_as: ShortText = ""
    cancelled: bool = False

    @property
    def id(self) -> str:
        """Short name for people, which tells nothing about the secret."""
        return self.digest[:8]

    def is_open(self, now: float) -> bool:
        """Tests whether the invitation can still be used."""
        return not self.used_by and not self.cancelled and now < self.expires_at


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A machine that waits for ``pomona approve``.

    Attributes:
        key: its public key.
        machine: digest of its hardware UUID.
        asked_at, seen_at: Unix times of its first and of its last message.
        invitation: id of the shown invitation; empty without one.
        committed: commitment to its nonce.
        nonce: its nonce, once revealed.
        head_nonce: the head's nonce.
        replace: the approval takes the name from the member that has it.
    """

    key: ShortText
    name: Name
    machine: Hex
    asked_at: float
    seen_at: float
    invitation: ShortText = ""
    committed: Hex = ""
    nonce: Hex = ""
    head_nonce: Hex = ""
    verdict: Verdict = "waiting"
    replace: bool = False

    def digits(self, head_key: str) -> str:
        """Returns the six digits for both screens; empty before the nonce is revealed."""
        if not self.nonce:
            return ""
        nonces = bytes.fromhex(self.head_nonce), bytes.fromhex(self.nonce)
        return digits(head_key, self.key, *nonces)


@dataclass(frozen=True, slots=True)
class JoinLedger:
    """All invitations and requests, oldest first.

    Attributes:
        machines: digests of the hardware UUIDs of admitted nodes, by public key.
    """

    invitations: tuple[IssuedInvitation, ...] = ()
    requests: tuple[JoinRequest, ...] = ()
    machines: Annotated[dict[ShortText, Hex], Field(max_length=MAX_MACHINES)] = field(
        default_factory=dict[str, str]
    )

    def issue(self, secret: bytes, now: float) -> JoinLedger:
        """Adds an invitation. Raises ConfigurationError when too many are open."""
        if sum(x.is_open(now) for x in self.invitations) >= MAX_OPEN:
            raise ConfigurationError(
                f"{MAX_OPEN} invitations are open already: use them, wait ten minutes, or take "
                "them back with `pomona invite --cancel`"
            )
        new = IssuedInvitation(secret_digest(secret), now, now + VALID_S)
        return replace(self, invitations=(*self.invitations, new)[-MAX_INVITATIONS:])

    def cancel_open(self, now: float) -> JoinLedger:
        """Cancels every invitation that could still be used."""
        return replace(
            self,
            invitations=tuple(
                replace(x, cancelled=True) if x.is_open(now) else x for x in self.invitations
            ),
        )

    def find(self, secret: bytes) -> IssuedInvitation | None:
        """Returns the invitation with this secret. The time taken does not depend on it."""
        digest, found = secret_digest(secret), None
        for invitation in self.invitations:
            if hmac.compare_digest(invitation.digest, digest):
                found = invitation
        return found

    def use(self, invitation: IssuedInvitation, key: str, name: str) -> JoinLedger:
        """Marks an invitation as used by a machine."""
        used = replace(invitation, used_by=key, used_as=name)
        return replace(
            self,
            invitations=tuple(
                used if x.digest == invitation.digest else x for x in self.invitations
            ),
        )

    def request_of(self, key: str) -> JoinRequest | None:
        """Returns the request of the machine with this key."""
        return next((x for x in self.requests if x.key == key), None)

    def put(self, request: JoinRequest) -> JoinLedger:
        """Adds a request, or replaces that of the same key.

        Raises ConfigurationError when too many machines ask.
        """
        others = tuple(x for x in self.requests if x.key != request.key)
        if len(others) >= MAX_REQUESTS:
            raise ConfigurationError(f"{MAX_REQUESTS} machines ask to join already")
        return replace(self, requests=(*others, request))

    def remove(self, key: str) -> JoinLedger:
        """Removes the request of a machine."""
        return replace(self, requests=tuple(x for x in self.requests if x.key != key))

    def admit(self, key: str, machine: str) -> JoinLedger:
        """Removes the request of a machine that was admitted, and remembers its hardware."""
        machines = dict([*self.machines.items(), (key, machine)][-MAX_MACHINES:])
        return replace(self.remove(key), machines=machines)

    def expire(self, now: float) -> JoinLedger:
        """Removes requests of machines that no longer ask."""

        def stays(request: JoinRequest) -> bool:
            limit_s = REQUEST_EXPIRY_S if request.verdict == "waiting" else DECIDED_EXPIRY_S
            return 0 <= now - request.seen_at < limit_s or request.seen_at > now

        kept = tuple(x for x in self.requests if stays(x))
        return self if len(kept) == len(self.requests) else replace(self, requests=kept)


def secret_digest(secret: bytes) -> str:
    """Returns the SHA-256 by which the ledger knows an invitation."""
    return hashlib.sha256(b"pomona invitation\0" + secret).hexdigest()


_LEDGER = TypeAdapter(JoinLedger)
Result = TypeVar("Result")


class LedgerFile:
    """The ledger in a state folder; processes change it in turn."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._lock = state_dir / LOCK

    def read(self) -> JoinLedger:
        """Returns the ledger; an empty one when there is none.

        Raises ConfigurationError when the file is damaged.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return JoinLedger()
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be read: {error.strerror}") from error
        try:
            if len(content) > MAX_FILE_BYTES:
                raise ValueError("it is too long")
            return _LEDGER.validate_json(content)
        except (ValidationError, ValueError) as error:
            raise ConfigurationError(
                f"{self._path} is damaged: delete it, and invite again"
            ) from error

    def change(self, change: Callable[[JoinLedger], tuple[JoinLedger, Result]]) -> Result:
        """Replaces the ledger by the result of ``change``. Returns its second result.

        Raises ConfigurationError when the file cannot be read or written.
        """
        try:
            make_folder(self._path.parent)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, FILE_MODE)
            with os.fdopen(descriptor, "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                before = self.read()
                after, result = change(before)
                if after is not before:
                    write_privately(self._path, orjson.dumps(after))
                return result
        except OSError as error:
            raise ConfigurationError(
                f"{self._path} cannot be written: {error.strerror}; run the command as the user of "
                "the services"
            ) from error
