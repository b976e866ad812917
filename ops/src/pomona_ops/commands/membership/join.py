"""``pomona join``: makes this machine a member of a cluster."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from pomona import __version__
from pomona.errors import ConfigurationError, LinkError, PomonaError, TrustError
from pomona.messages.doorstep import (
    Challenge,
    Join,
    Knock,
    Poll,
    Refused,
    Reply,
    Request,
    Reveal,
    Waiting,
    Welcome,
    Withdraw,
)
from pomona.private_files import write_privately
from pomona.transport.doorstep import DoorstepClient
from pomona.trust import NodeKeys, Trust, roster
from pomona.trust.digits import commitment, digits, grouped, new_nonce
from pomona.trust.head_key import ask_head_key
from pomona.trust.invitation import Invitation, decode_invitation
from pomona_discovery.nearby import nearby_nodes
from pomona_ops.cluster.started import Target, started_clusters
from pomona_ops.commands.membership.node import ANY, discovery_settings, keep_network

EXIT_JOINED: Final = 0
EXIT_REFUSED: Final = 1
EXIT_NO_HEAD: Final = 2

CONNECT_S: Final = 5.0
ANSWER_S: Final = 10.0
POLL_S: Final = 1.0
LOST_S: Final = 60.0
"""Seconds for which a head that was heard may be away, for example while it restarts."""
BROWSE_S: Final = 3.0
FILE: Final = "joining.json"

Asker = Callable[[Request], Reply]


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """Attributes:
    where: an invitation, the name of a nearby head, or its ``host:port``; empty goes on with a
        join that was not finished, or else takes the only head nearby.
    name: name of this machine in the cluster; empty keeps its own.
    yes: the digits need not be compared here.
    wait_s: seconds to wait for ``pomona approve``.
    leave: leaves the cluster that this machine belongs to.
    """

    where: str = ""
    name: str = ""
    yes: bool = False
    wait_s: float = 600.0
    leave: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class PendingJoin:
    """A join that is not finished, as the state folder keeps it.

    Attributes:
        address: (host, port) of the head's doorstep.
        head_key: the head's public key.
        nonce: this machine's nonce; empty with an invitation.
        secret: of the invitation; empty without one.
        is_default_name: the name was not chosen by a person.
    """

    address: tuple[str, Annotated[int, Field(ge=1, le=65535)]]
    head_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    name: str
    nonce: str = ""
    secret: str = ""
    is_default_name: bool = False


class JoinRefusedError(PomonaError):
    """The head refuses this machine. ``code`` is that of the message."""

    def __init__(self, code: str, said: str) -> None:
        super().__init__(said)
        self.code = code


_PENDING = TypeAdapter(PendingJoin)


def join(target: Target, options: JoinOptions) -> int:
    """Joins a cluster. Returns the exit code: 0 joined, 1 refused, 2 no head answers."""
    try:
        welcome, address = _joined(target, options)
    except JoinRefusedError as error:
        return _fail(options, error.code, str(error), EXIT_REFUSED)
    except LinkError as error:
        return _fail(options, "no_answer", str(error), EXIT_NO_HEAD)
    runs = any(x.port == target.port and x.runs() for x in started_clusters())
    if options.as_json:
        content = {
            "state": "joined",
            "cluster": welcome.cluster,
            "name": welcome.name,
            "head": welcome.head,
            "head_address": address,
            "running": runs,
        }
        sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
        return EXIT_JOINED
    print(f"joined {welcome.cluster} as {welcome.name}; its head is {welcome.head} ({address})")
    if runs:
        print("`pomona up` runs here and starts its services again as a member")
    else:
        print("next: `pomona up`, which lets this machine hold a part of the cluster's models")
    return EXIT_JOINED


def cancel_join(target: Target, as_json: bool) -> int:
    """Withdraws a join that is not finished. Returns 0."""
    pending = _read_pending(target.state_dir)
    if pending is not None:
        keys = Trust.load(target.state_dir)
        if keys is not None:
            with suppress(PomonaError), _connect(pending, keys.keys) as client:
                client.ask(Withdraw(), ANSWER_S)
        (target.state_dir / FILE).unlink(missing_ok=True)
    if as_json:
        print(orjson.dumps({"cancelled": pending is not None}).decode())
    else:
        print("the join is withdrawn" if pending else "no join is under way")
    return 0


def _joined(target: Target, options: JoinOptions) -> tuple[Welcome, str]:
    """Returns the welcome and the address of the head, once this node's files say so too.

    Raises JoinRefusedError, LinkError and ConfigurationError.
    """
    invitation = decode_invitation(options.where) if _is_invitation(options.where) else None
    settings = discovery_settings(target)
    trust = Trust.open(target.state_dir, settings.node)
    # A node has one name: the one that its cluster knows. One that joins takes another here.
    name = options.name or settings.node
    pending = _prepare(target.state_dir, options, invitation, name)
    is_default_name = not options.name and "node" not in settings.model_fields_set
    pending = replace(pending, is_default_name=is_default_name)
    _check_free(trust, pending.head_key, options)
    write_privately(target.state_dir / FILE, orjson.dumps(pending))
    try:
        welcome = _ask(pending, trust.keys, options)
    except JoinRefusedError:
        (target.state_dir / FILE).unlink(missing_ok=True)
        raise
    _keep(target.state_dir, pending, welcome)
    (target.state_dir / FILE).unlink(missing_ok=True)
    return welcome, pending.address[0]


def _is_invitation(text: str) -> bool:
    return re.match(r"^\s*pom\d*-", text.lower()) is not None


def _check_free(trust: Trust, head_key: str, options: JoinOptions) -> None:
    """Raises ConfigurationError when joining would take this node from another cluster."""
    if trust.roster.by_key(head_key) is not None:
        return
    others = [x.name for x in trust.roster.members if x.id != trust.keys.id]
    if others and trust.member is not None and not options.leave:
        raise ConfigurationError(
            f"this machine belongs to {trust.roster.name} already, with {', '.join(others)}; "
            "add --leave to leave that cluster, or use another --port for a second node"
        )


def _prepare(
    state_dir: Path,
    options: JoinOptions,
    invitation: Invitation | None,
    name: str,
) -> PendingJoin:
    """Finds the head and checks its key. Raises JoinRefusedError and LinkError."""
    if invitation is not None:
        address, head_key = _invited_head(invitation)
        return PendingJoin(address, head_key, name, secret=invitation.secret.hex())
    before = _read_pending(state_dir)
    if before is not None and not options.where:
        return before
    host, port = _nearby_head(options.where)
    head_key = ask_head_key(host, port, CONNECT_S)
    if before is not None and before.head_key == head_key and before.nonce and before.name == name:
        return before
    return PendingJoin((host, port), head_key, name, nonce=new_nonce().hex())


def _invited_head(invitation: Invitation) -> tuple[tuple[str, int], str]:
    """Returns the first address at which the key of the invitation answers, and that key."""
    problems: list[str] = []
    wrong = ""
    for host, port in invitation.addresses:
        try:
            key = ask_head_key(host, port, CONNECT_S)
        except LinkError as error:
            problems.append(str(error))
            continue
        if invitation.is_key(key):
            return (host, port), key
        wrong = f"{host}:{port}"
    if wrong:
        raise JoinRefusedError(
            "wrong_key",
            f"another machine than the one that invited answers at {wrong}: its key is not that of "
            "the invitation. Nothing was sent to it. Run `pomona invite` on the head again",
        )
    raise LinkError(
        "the head does not answer: "
        + "; ".join(problems)
        + ". Check that it runs, that both machines are in one network, and on macOS that the "
        "terminal may use the local network"
    )


def _nearby_head(where: str) -> tuple[str, int]:
    """Returns the doorstep of a head by name or ``host:port``, or the only one nearby."""
    given = re.fullmatch(r"([A-Za-z0-9._-]+):(\d{1,5})", where)
    if given:
        return given[1], int(given[2])
    heads = [x for x in nearby_nodes(BROWSE_S) if x.door and x.addresses]
    chosen = [x for x in heads if where in ("", x.node)]
    if len(chosen) == 1:
        return chosen[0].addresses[0], chosen[0].door
    names = ", ".join(f"{x.node} ({x.addresses[0]}:{x.door})" for x in heads)
    if not chosen:
        found = f"; found: {names}" if names else ""
        raise LinkError(
            f"no head {f'called {where} ' if where else ''}announces itself nearby{found}. Run "
            "`pomona invite` on the head and paste its line here"
        )
    raise ConfigurationError(f"several heads are nearby: {names}; name one, as host:port")


def _connect(pending: PendingJoin, keys: NodeKeys) -> DoorstepClient:
    host, port = pending.address
    return DoorstepClient(f"tcp://{host}:{port}", pending.head_key, keys.public, keys.secret)


def _ask(pending: PendingJoin, keys: NodeKeys, options: JoinOptions) -> Welcome:
    """Asks until the head has decided. Raises JoinRefusedError and LinkError."""
    ends_at = time.monotonic() + options.wait_s
    said = ""
    reply: Reply = _begin(pending, keys, options)
    while True:
        match reply:
            case Welcome():
                return reply
            case Refused(code=code, said=reason):
                raise JoinRefusedError(code, reason)
            case Waiting():
                if reply.said != said:
                    said = reply.said
                    _say(options, f"waiting: {said}")
            case Challenge():
                raise LinkError("the head answered out of turn; run `pomona join` again")
        if time.monotonic() >= ends_at:
            raise JoinRefusedError(
                "timeout",
                f"nobody decided within {options.wait_s:g} s; run `pomona join` to wait again, or "
                "`pomona join --cancel`",
            )
        time.sleep(POLL_S)
        reply = _persistently(pending, keys, Poll())


def _begin(pending: PendingJoin, keys: NodeKeys, options: JoinOptions) -> Reply:
    if pending.secret:
        request = Join(
            pending.secret, pending.name, keys.machine, __version__, pending.is_default_name
        )
        return _persistently(pending, keys, request)
    nonce = bytes.fromhex(pending.nonce)
    knock = Knock(commitment(keys.public, nonce).hex(), pending.name, keys.machine, __version__)
    reply = _persistently(pending, keys, knock)
    if not isinstance(reply, Challenge):
        return reply
    number = digits(pending.head_key, keys.public, bytes.fromhex(reply.nonce), nonce)
    reply = _persistently(pending, keys, Reveal(pending.nonce))
    if isinstance(reply, Waiting) and not _same_digits(grouped(number), pending.name, options):
        with suppress(PomonaError):
            _persistently(pending, keys, Withdraw())
        return Refused("denied", "the digits differ: nothing was joined")
    return reply


def _same_digits(number: str, name: str, options: JoinOptions) -> bool:
    _say(options, f"digits: {number}")
    if options.yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigurationError(
            "compare the digits with those of `pomona approve` on the head; without a terminal, "
            "add --yes to join without comparing them here"
        )
    print(
        f"`pomona approve {name}` on the head shows digits too. Are they {number}? [y/N] ", end=""
    )
    return input().strip().lower() in ("y", "yes")


def _persistently(pending: PendingJoin, keys: NodeKeys, request: Request) -> Reply:
    """Asks until the head answers, which may be restarting. Raises LinkError after LOST_S."""
    ends_at = time.monotonic() + LOST_S
    while True:
        try:
            with _connect(pending, keys) as client:
                return client.ask(request, ANSWER_S)
        except LinkError:
            if time.monotonic() >= ends_at:
                raise
            time.sleep(POLL_S)


def _keep(state_dir: Path, pending: PendingJoin, welcome: Welcome) -> None:
    """Keeps the roster and the addresses of the cluster. Raises TrustError."""
    found = roster.decode(welcome.roster.encode())
    head = found.by_key(pending.head_key)
    if head is None or head.role != "head":
        raise TrustError("the roster that the head sent does not name it as a head")
    Trust.joined(state_dir, found)
    host = pending.address[0]
    peers = [x.replace("*", host, 1) for x in welcome.peers if x]
    keep_network(
        state_dir,
        {"node": welcome.name, "data_host": ANY},
        {"peer_host": ANY, "peers": list(dict.fromkeys(peers))},
        {"name": welcome.head, "door": f"{host}:{pending.address[1]}"},
    )


def _read_pending(state_dir: Path) -> PendingJoin | None:
    try:
        return _PENDING.validate_json((state_dir / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _say(options: JoinOptions, text: str) -> None:
    """Prints progress, on standard error when standard output is JSON."""
    print(text, file=sys.stderr if options.as_json else sys.stdout, flush=True)


def _fail(options: JoinOptions, code: str, said: str, exit_code: int) -> int:
    if options.as_json:
        print(orjson.dumps({"state": "refused", "code": code, "message": said}).decode())
    else:
        print(f"pomona: {said}", file=sys.stderr)
    return exit_code
