"""``pomona approve``: lets a machine in that asks, once the digits were compared."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import Final

import orjson

from pomona.errors import ConfigurationError
from pomona.trust import Trust
from pomona.trust.digits import grouped
from pomona.trust.join_ledger import JoinLedger, JoinRequest, LedgerFile, Verdict
from pomona_ops.cluster.started import Target
from pomona_ops.commands.membership.node import head_trust

DECIDED_S: Final = 10.0
"""Seconds within which a machine that still asks has been let in."""
POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class ApproveOptions:
    """Attributes:
    digits: those that the other screen shows; empty asks at the terminal.
    yes: approves without comparing digits.
    replace: takes the name from the member that has it, whose key is retired.
    deny: refuses the machine instead.
    """

    name: str
    digits: str = ""
    yes: bool = False
    replace: bool = False
    deny: bool = False
    as_json: bool = False


def approve(target: Target, options: ApproveOptions) -> int:
    """Decides a request. Returns 0 decided, 1 when the digits differ.

    Raises ConfigurationError when no machine of this name asks, or its name is taken.
    """
    trust = head_trust(target, f"pomona approve {options.name}")
    ledger = LedgerFile(target.state_dir)
    request = _request(ledger.read(), trust, options)
    if options.deny:
        _decide(ledger, request, "denied", options)
        _say(options, f"{request.name} is refused", "denied")
        return 0
    holder = trust.roster.by_name(request.name)
    if holder is not None and holder.key != request.key and not options.replace:
        raise ConfigurationError(
            f"{holder.name} is a member already, with the key {holder.key[:8]}; this machine's is "
            f"{request.key[:8]}. If it is the same machine, reinstalled, run `pomona approve "
            f"{holder.name} --replace`, which retires the old key"
        )
    if not _is_same(trust, request, options):
        _decide(ledger, request, "denied", options)
        _say(options, "the digits differ: the machine is refused", "denied")
        return 1
    _decide(ledger, request, "approved", options)
    ends_at = time.monotonic() + DECIDED_S
    while time.monotonic() < ends_at:
        trust.reload()
        if trust.roster.by_key(request.key) is not None:
            _say(options, f"{request.name} is a member", "joined")
            return 0
        time.sleep(POLL_S)
    _say(options, f"{request.name} is approved, and joins when it asks again", "approved")
    return 0


def _request(ledger: JoinLedger, trust: Trust, options: ApproveOptions) -> JoinRequest:
    waiting = [x for x in ledger.requests if x.verdict == "waiting"]
    found = [x for x in waiting if options.name in (x.name, x.key, x.key[:8])]
    if len(found) > 1 and options.digits:
        wanted = _plain(options.digits)
        found = [x for x in found if x.digits(trust.keys.public) == wanted] or found
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(
            f"{x.key[:8]} ({grouped(x.digits(trust.keys.public)) or 'invited'})" for x in found
        )
        raise ConfigurationError(
            f"several machines called {options.name} ask to join; name one by its key: {keys}"
        )
    names = ", ".join(x.name for x in waiting) or "none"
    raise ConfigurationError(
        f"no machine called {options.name} asks to join; those that do: {names}. Run `pomona join` "
        "on it first"
    )


def _is_same(trust: Trust, request: JoinRequest, options: ApproveOptions) -> bool:
    """Tests whether both screens show the same digits. An invitation needs none."""
    if request.invitation or options.yes:
        return True
    number = request.digits(trust.keys.public)
    if not number:
        raise ConfigurationError(f"{request.name} has not finished asking; try again")
    if options.digits:
        return _plain(options.digits) == number
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{request.name} must be compared: add --digits with those that its screen shows"
        )
    print(f"digits: {grouped(number)}")
    print(f"Does the screen of {request.name} show {grouped(number)}? [y/N] ", end="", flush=True)
    return input().strip().lower() in ("y", "yes")


def _decide(
    ledger: LedgerFile, request: JoinRequest, verdict: Verdict, options: ApproveOptions
) -> None:
    def change(before: JoinLedger) -> tuple[JoinLedger, None]:
        current = before.request_of(request.key)
        # The machine may have asked anew since, with other digits.
        if current is None or current.nonce != request.nonce or current.name != request.name:
            raise ConfigurationError(f"{request.name} has asked again meanwhile: compare anew")
        return before.put(replace(current, verdict=verdict, replace=options.replace)), None

    ledger.change(change)


def _plain(number: str) -> str:
    return "".join(x for x in number if x.isdecimal())


def _say(options: ApproveOptions, said: str, state: str) -> None:
    if options.as_json:
        print(orjson.dumps({"state": state, "name": options.name, "message": said}).decode())
    else:
        print(said)
