"""Decides who joins the cluster. Pure but for the ledger and the membership.

- A valid invitation admits its bearer at once, unless another key has the name: then the owner
  decides with ``pomona approve NAME --replace``.
- Without an invitation a machine waits until the owner has compared six digits and approved it.
- Each answer may be asked for again, by the same key: a joiner, or the head, may have restarted.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol, TypeVar

from pomona.errors import ConfigurationError
from pomona.messages.doorstep import (
    Challenge,
    Join,
    Knock,
    Poll,
    Refused,
    Rekey,
    Reply,
    Request,
    Reveal,
    Waiting,
    Welcome,
    Withdraw,
)
from pomona.trust.digits import is_committed, new_nonce
from pomona.trust.join_ledger import IssuedInvitation, JoinLedger, JoinRequest

MAX_WRONG: Final = 10
"""Wrong invitations within ``WRONG_WINDOW_S`` after which none is accepted for that long."""
WRONG_WINDOW_S: Final = 60.0
MAX_NAME: Final = 48
SEEN_INTERVAL_S: Final = 5.0
"""Interval at which the ledger notes that a machine still asks."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A member of the roster, as far as joining is concerned.

    Attributes:
        since: Unix time at which it joined.
    """

    key: str
    name: str
    since: float


class Membership(Protocol):
    """The roster of the cluster, and the right to change it."""

    @property
    def head(self) -> str:
        """Returns the name of this machine."""
        ...

    def by_key(self, key: str) -> Holder | None:
        """Returns the member with a public key."""
        ...

    def by_name(self, name: str) -> Holder | None:
        """Returns the member with a name."""
        ...

    def is_live(self, name: str) -> bool:
        """Tells whether the member with a name is heard now."""
        ...

    def admit(self, joiner: Holder, replaces: bool) -> None:
        """Adds a member; ``replaces`` retires the key that has its name."""
        ...

    def welcome(self, name: str) -> Welcome:
        """Returns the welcome of a member."""
        ...


Result = TypeVar("Result")


class Ledger(Protocol):
    """The stored ledger; see :class:`pomona.trust.join_ledger.LedgerFile`."""

    def change(self, change: Callable[[JoinLedger], tuple[JoinLedger, Result]]) -> Result: ...


class Doorkeeper:
    """Answers the requests of joiners."""

    def __init__(self, ledger: Ledger, membership: Membership) -> None:
        self._ledger = ledger
        self._members = membership
        self._wrong: deque[float] = deque(maxlen=MAX_WRONG)

    def answer(self, request: Request, key: str, now: float, elapsed: float) -> Reply:
        """Returns the answer to a request.

        Args:
            key: public key that its sender has proven.
            now: Unix time.
            elapsed: monotonic time.
        """

        def change(ledger: JoinLedger) -> tuple[JoinLedger, Reply]:
            ledger = ledger.expire(now)
            match request:
                case Join():
                    return self._join(ledger, request, key, now, elapsed)
                case Knock():
                    return self._knock(ledger, request, key, now)
                case Reveal():
                    return self._reveal(ledger, request, key, now)
                case Poll():
                    return self._poll(ledger, key, now)
                case Rekey():
                    return self._rekey(ledger, request, key)
                case Withdraw():
                    return ledger.remove(key), Refused("denied", "the request is withdrawn")

        return self._ledger.change(change)

    # With an invitation -------------------------------------------------------------------

    def _join(
        self, ledger: JoinLedger, request: Join, key: str, now: float, elapsed: float
    ) -> tuple[JoinLedger, Reply]:
        paused_s = self._paused_s(elapsed)
        if paused_s > 0:
            return ledger, Refused(
                "paused",
                f"{MAX_WRONG} wrong invitations came within a minute: {self._members.head} accepts "
                f"none for {paused_s:.0f} s; try again then",
            )
        invitation = ledger.find(bytes.fromhex(request.secret))
        if invitation is None:
            self._wrong.append(elapsed)
            return ledger, Refused(
                "wrong",
                f"{self._members.head} has not issued this invitation: run `pomona invite` there "
                "and paste its line",
            )
        refusal = self._unusable(invitation, key, now)
        if refusal is not None:
            return ledger, refusal
        member = self._members.by_key(key)
        if member is not None:
            return ledger, self._again(ledger, member, request)
        if request.is_default_name:
            request = replace(request, name=self._free_name(ledger, request))
        ledger = ledger.use(invitation, key, request.name)
        if self._members.by_name(request.name) is None:
            joiner = Holder(key, request.name, now)
            return ledger.admit(key, request.machine), self._admit(joiner, False)
        waiting = ledger.request_of(key)
        asked_at = waiting.asked_at if waiting else now
        asked = JoinRequest(key, request.name, request.machine, asked_at, now, invitation.id)
        if waiting is not None and waiting.name == request.name:
            asked = replace(asked, verdict=waiting.verdict, replace=waiting.replace)
        return self._decided(ledger.put(asked), asked, now)

    def _free_name(self, ledger: JoinLedger, request: Join) -> str:
        """Returns a name for a machine that has chosen none: its host name, or one like it.

        A name is only left to a machine that may be the same one, reinstalled: not to one that is
        heard now, or has other hardware.
        """
        name = request.name
        for number in itertools.count(2):
            holder = self._members.by_name(name)
            if holder is None:
                return name
            known = ledger.machines.get(holder.key, "")
            is_other = bool(known and request.machine) and known != request.machine
            if not is_other and not self._members.is_live(name):
                return name
            name = f"{request.name[: MAX_NAME - 4]}-{number}"
        return name

    def _paused_s(self, elapsed: float) -> float:
        """Returns the seconds for which no invitation is accepted."""
        if len(self._wrong) < MAX_WRONG or self._wrong[-1] - self._wrong[0] > WRONG_WINDOW_S:
            return 0.0
        left_s = self._wrong[-1] + WRONG_WINDOW_S - elapsed
        if left_s <= 0:
            self._wrong.clear()
        return max(left_s, 0.0)

    def _unusable(self, invitation: IssuedInvitation, key: str, now: float) -> Refused | None:
        again = "run `pomona invite` there for another"
        if invitation.used_by == key:
            return None
        if invitation.used_by:
            return Refused(
                "used", f"this invitation was used by {invitation.used_as} already; {again}"
            )
        if invitation.cancelled:
            return Refused("cancelled", f"this invitation was cancelled on the head; {again}")
        if now >= invitation.expires_at:
            ended = datetime.fromtimestamp(invitation.expires_at).astimezone()
            return Refused(
                "expired", f"this invitation ended at {ended:%H:%M} on the head's clock; {again}"
            )
        return None

    # Without one --------------------------------------------------------------------------

    def _knock(
        self, ledger: JoinLedger, request: Knock, key: str, now: float
    ) -> tuple[JoinLedger, Reply]:
        member = self._members.by_key(key)
        if member is not None:
            return ledger, self._again(ledger, member, request)
        known = ledger.request_of(key)
        if known is not None and known.committed == request.commitment and not known.invitation:
            known = replace(known, seen_at=now)
            return ledger.put(known), Challenge(known.head_nonce)
        asked = JoinRequest(
            key, request.name, request.machine, now, now,
            committed=request.commitment, head_nonce=new_nonce().hex(),
        )  # fmt: skip
        try:
            return ledger.put(asked), Challenge(asked.head_nonce)
        except ConfigurationError as error:
            return ledger, Refused("busy", f"{error}; use an invitation (`pomona invite`)")

    def _reveal(
        self, ledger: JoinLedger, request: Reveal, key: str, now: float
    ) -> tuple[JoinLedger, Reply]:
        known = ledger.request_of(key)
        if known is None or not known.committed:
            return ledger, self._unknown()
        committed = bytes.fromhex(known.committed)
        if not is_committed(committed, key, bytes.fromhex(request.nonce)):
            return ledger.remove(key), Refused("wrong", "the nonce is not the committed one")
        known = replace(known, nonce=request.nonce, seen_at=now)
        return self._decided(ledger.put(known), known, now)

    def _poll(self, ledger: JoinLedger, key: str, now: float) -> tuple[JoinLedger, Reply]:
        known = ledger.request_of(key)
        if known is None:
            member = self._members.by_key(key)
            return ledger, self._members.welcome(member.name) if member else self._unknown()
        if now - known.seen_at > SEEN_INTERVAL_S:
            known = replace(known, seen_at=now)
            ledger = ledger.put(known)
        return self._decided(ledger, known, now)

    # Common -------------------------------------------------------------------------------

    def _rekey(self, ledger: JoinLedger, request: Rekey, key: str) -> tuple[JoinLedger, Reply]:
        member = self._members.by_key(key)
        if member is None or self._members.by_key(request.key) is not None:
            return ledger, Refused("unknown", f"{self._members.head} does not know this key")
        machine = ledger.machines.get(key, "")
        ledger = ledger.admit(request.key, machine)
        return ledger, self._admit(replace(member, key=request.key), True)

    def _decided(
        self, ledger: JoinLedger, request: JoinRequest, now: float
    ) -> tuple[JoinLedger, Reply]:
        """Returns the answer to a request by its verdict."""
        head = self._members.head
        if request.verdict == "denied":
            return ledger, Refused("denied", f"the request was refused on {head}")
        holder = self._members.by_name(request.name)
        taken = holder is not None and holder.key != request.key
        if request.verdict == "approved" and (request.replace or not taken):
            joiner = Holder(request.key, request.name, now)
            return ledger.admit(request.key, request.machine), self._admit(joiner, taken)
        if holder is not None and taken:
            return ledger, Waiting("name_taken", _name_taken(holder, head))
        return ledger, Waiting("approval", f"run `pomona approve {request.name}` on {head}")

    def _admit(self, joiner: Holder, replaces: bool) -> Reply:
        self._members.admit(joiner, replaces)
        return self._members.welcome(joiner.name)

    def _again(self, ledger: JoinLedger, member: Holder, request: Join | Knock) -> Reply:
        """Answers a key that is a member's already: the same machine, or a copy of it."""
        known = ledger.machines.get(member.key, "")
        if not known or not request.machine or known == request.machine:
            return self._members.welcome(member.name)
        return Refused(
            "clone",
            f"{request.name} has the key of {member.name}, which is another machine: its disk was "
            "copied or migrated. Run `pomona keys new` on the copy, then join again",
        )

    def _unknown(self) -> Refused:
        return Refused(
            "unknown",
            f"{self._members.head} does not know this request any more; run `pomona join` again",
        )


def _name_taken(holder: Holder, head: str) -> str:
    since = datetime.fromtimestamp(holder.since).astimezone()
    return (
        f"the name {holder.name} belongs to the key {holder.key[:8]} since {since:%Y-%m-%d %H:%M}. "
        f"If that was this machine before it was reinstalled, run `pomona approve {holder.name} "
        f"--replace` on {head}; otherwise join under another name with --name"
    )
