"""The members of a cluster and the machines that ask to join, as people see them. Pure.

``pomona nodes --json`` prints these records, and the gateway serves them to administrators.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from pomona.trust.join_ledger import JoinRequest
from pomona.trust.trust import Trust


@dataclass(frozen=True, slots=True)
class MemberReport:
    """A member of the roster.

    Attributes:
        since: Unix time at which it joined, by the head's clock.
        invited_by: name, or id of a node that is no longer a member; empty for the founder.
        online: its discovery service sends beacons.
        here: it is this machine.
    """

    id: str
    name: str
    role: str
    since: float
    invited_by: str
    online: bool
    here: bool


@dataclass(frozen=True, slots=True)
class WaitingReport:
    """A machine that asks to join.

    Attributes:
        digits: six digits that its screen shows; empty for one with an invitation.
        holder: member that has its name; empty without one.
    """

    name: str
    key: str
    asked_at: float
    digits: str
    invited: bool
    holder: str


def member_reports(trust: Trust, online: Set[str]) -> tuple[MemberReport, ...]:
    """Describes every member.

    Args:
        online: names of the nodes whose discovery services send beacons.
    """
    names = {member.id: member.name for member in trust.roster.members}
    return tuple(
        MemberReport(
            x.id, x.name, x.role, x.since, names.get(x.invited_by, x.invited_by),
            x.name in online, x.id == trust.keys.id,
        )
        for x in trust.roster.members
    )  # fmt: skip


def waiting_reports(trust: Trust, requests: Iterable[JoinRequest]) -> tuple[WaitingReport, ...]:
    """Describes the requests to join that nobody has decided, with the digits for this screen."""
    return tuple(_waiting(trust, x) for x in requests if x.verdict == "waiting")


def _waiting(trust: Trust, request: JoinRequest) -> WaitingReport:
    holder = trust.roster.by_name(request.name)
    return WaitingReport(
        request.name,
        request.key,
        request.asked_at,
        request.digits(trust.keys.public),
        bool(request.invitation),
        holder.name if holder is not None and holder.key != request.key else "",
    )
