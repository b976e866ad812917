"""The doorkeeper admits who is invited or approved, once, and says why it admits no one else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest

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
from pomona.trust.digits import commitment, digits
from pomona.trust.join_ledger import MAX_REQUESTS, VALID_S, JoinLedger
from pomona_discovery.doorstep.doorkeeper import MAX_WRONG, WRONG_WINDOW_S, Doorkeeper, Holder

HEAD_KEY, STUDIO, MINI, OTHER = "00" * 32, "11" * 32, "22" * 32, "33" * 32
SECRET = bytes(range(16))
NONCE = "ab" * 16
NOW = 1_800_000_000.0
MACHINE = "fe" * 16

Result = TypeVar("Result")


class Members:
    """A roster in memory."""

    head = "head"

    def __init__(self) -> None:
        self.members = [Holder(HEAD_KEY, "head", 1.0)]
        self.live = {"head"}

    def by_key(self, key: str) -> Holder | None:
        return next((x for x in self.members if x.key == key), None)

    def by_name(self, name: str) -> Holder | None:
        return next((x for x in self.members if x.name == name), None)

    def is_live(self, name: str) -> bool:
        return name in self.live

    def admit(self, joiner: Holder, replaces: bool) -> None:
        assert replaces == (self.by_name(joiner.name) is not None)
        self.members = [x for x in self.members if x.name != joiner.name] + [joiner]

    def welcome(self, name: str) -> Welcome:
        return Welcome("cluster", name, "head", "roster")


class Book:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.ledger = JoinLedger()

    def change(self, change: Callable[[JoinLedger], tuple[JoinLedger, Result]]) -> Result:
        self.ledger, result = change(self.ledger)
        return result


class Door:
    """A doorkeeper with a clock that a test moves."""

    def __init__(self) -> None:
        self.book, self.members = Book(), Members()
        self.keeper = Doorkeeper(self.book, self.members)
        self.now = NOW

    def invite(self, secret: bytes = SECRET) -> None:
        self.book.ledger = self.book.ledger.issue(secret, self.now)

    def ask(self, request: Request, key: str = STUDIO) -> Reply:
        return self.keeper.answer(request, key, self.now, self.now)

    def restart(self) -> None:
        self.keeper = Doorkeeper(self.book, self.members)

    def decide(self, key: str, verdict: str, replaces: bool = False) -> None:
        known = self.book.ledger.request_of(key)
        assert known is not None
        decided = replace(known, verdict=verdict, replace=replaces)  # type: ignore[arg-type]  # a literal
        self.book.ledger = self.book.ledger.put(decided)


@pytest.fixture
def door() -> Door:
    return Door()


def join(secret: bytes = SECRET, name: str = "studio", machine: str = MACHINE) -> Join:
    return Join(secret.hex(), name, machine)


def refusal(reply: Reply) -> str:
    assert isinstance(reply, Refused), reply
    return reply.code


def test_an_invitation_admits_one_machine(door: Door) -> None:
    door.invite()
    assert door.ask(join()) == door.members.welcome("studio")
    assert door.members.by_name("studio") == Holder(STUDIO, "studio", NOW)
    reply = door.ask(join(name="mini"), MINI)
    assert refusal(reply) == "used"
    assert isinstance(reply, Refused)
    assert "studio" in reply.said


def test_the_same_machine_may_ask_again_after_a_restart_of_either_side(door: Door) -> None:
    door.invite()
    door.ask(join())
    door.restart()
    door.now += 2 * VALID_S
    assert isinstance(door.ask(join()), Welcome)
    assert len(door.members.members) == 2


@pytest.mark.parametrize(("after_s", "code"), [(0.0, "welcome"), (VALID_S + 1, "expired")])
def test_the_head_s_clock_ends_an_invitation(door: Door, after_s: float, code: str) -> None:
    door.invite()
    door.now += after_s
    reply = door.ask(join())
    assert (reply.code if isinstance(reply, Refused) else reply.kind) == code


def test_a_cancelled_invitation_says_so(door: Door) -> None:
    door.invite()
    door.book.ledger = door.book.ledger.cancel_open(door.now)
    assert refusal(door.ask(join())) == "cancelled"


def test_ten_wrong_invitations_a_minute_pause_the_door(door: Door) -> None:
    door.invite()
    for number in range(MAX_WRONG):
        assert refusal(door.ask(join(bytes([number]) * 16), OTHER)) == "wrong"
        door.now += 1
    assert refusal(door.ask(join())) == "paused"
    assert door.members.by_name("studio") is None
    door.now += WRONG_WINDOW_S
    assert isinstance(door.ask(join()), Welcome)


def test_wrong_invitations_over_a_longer_time_pause_nothing(door: Door) -> None:
    door.invite()
    for number in range(2 * MAX_WRONG):
        assert refusal(door.ask(join(bytes([number]) * 16), OTHER)) == "wrong"
        door.now += WRONG_WINDOW_S / 6
    assert isinstance(door.ask(join()), Welcome)


def test_a_taken_name_waits_for_the_owner(door: Door) -> None:
    door.members.members.append(Holder(MINI, "studio", 1.0))
    door.invite()
    reply = door.ask(join())
    assert isinstance(reply, Waiting)
    assert reply.reason == "name_taken"
    assert MINI[:8] in reply.said
    assert "pomona approve studio --replace" in reply.said
    door.decide(STUDIO, "approved")
    assert isinstance(door.ask(Poll()), Waiting), "approved, but the name is not given up"
    door.decide(STUDIO, "approved", replaces=True)
    door.restart()
    assert isinstance(door.ask(Poll()), Welcome)
    assert door.members.by_key(MINI) is None
    assert isinstance(door.ask(Poll()), Welcome), "the welcome may be lost on its way"


def test_another_name_ends_the_wait(door: Door) -> None:
    door.members.members.append(Holder(MINI, "studio", 1.0))
    door.invite()
    assert isinstance(door.ask(join()), Waiting)
    assert isinstance(door.ask(join(name="studio-2")), Welcome)
    assert not door.book.ledger.requests


def test_a_machine_without_a_chosen_name_gets_one_like_its_host_name(door: Door) -> None:
    def unnamed(machine: str) -> Join:
        return replace(join(name="head", machine=machine), is_default_name=True)

    door.invite()
    assert door.ask(unnamed("aa")) == door.members.welcome("head-2"), "the head itself is heard"
    door.invite(bytes(16))
    other = replace(unnamed("bb"), secret=bytes(16).hex(), name="head-2")
    assert door.ask(other, MINI) == door.members.welcome("head-2-2"), "other hardware"
    door.invite(bytes(range(1, 17)))
    again = replace(other, secret=bytes(range(1, 17)).hex(), machine="aa")
    reply = door.ask(again, OTHER)
    assert isinstance(reply, Waiting), "it may be the same machine, reinstalled"
    assert reply.reason == "name_taken"


def test_a_stranger_is_admitted_after_the_digits_are_approved(door: Door) -> None:
    committed = commitment(STUDIO, bytes.fromhex(NONCE)).hex()
    reply = door.ask(Knock(committed, "studio", MACHINE))
    assert isinstance(reply, Challenge)
    assert isinstance(door.ask(Reveal(NONCE)), Waiting)
    request = door.book.ledger.request_of(STUDIO)
    nonces = bytes.fromhex(reply.nonce), bytes.fromhex(NONCE)
    assert request is not None
    assert request.digits(HEAD_KEY) == digits(HEAD_KEY, STUDIO, *nonces)
    door.restart()
    assert door.ask(Knock(committed, "studio", MACHINE)) == reply, "the digits stay the same"
    assert isinstance(door.ask(Poll()), Waiting)
    door.decide(STUDIO, "approved")
    assert isinstance(door.ask(Poll()), Welcome)


def test_a_denied_machine_is_told(door: Door) -> None:
    committed = commitment(STUDIO, bytes.fromhex(NONCE)).hex()
    door.ask(Knock(committed, "studio", MACHINE))
    door.ask(Reveal(NONCE))
    door.decide(STUDIO, "denied")
    assert refusal(door.ask(Poll())) == "denied"


def test_another_nonce_than_the_committed_one_is_refused(door: Door) -> None:
    door.ask(Knock(commitment(STUDIO, bytes(16)).hex(), "studio", MACHINE))
    assert refusal(door.ask(Reveal(NONCE))) == "wrong"
    assert refusal(door.ask(Poll())) == "unknown"


def test_either_side_can_cancel(door: Door) -> None:
    committed = commitment(STUDIO, bytes.fromhex(NONCE)).hex()
    door.ask(Knock(committed, "studio", MACHINE))
    door.ask(Withdraw())
    assert refusal(door.ask(Reveal(NONCE))) == "unknown"


def test_only_some_machines_may_ask_at_once_but_the_invited_still_join(door: Door) -> None:
    for number in range(MAX_REQUESTS):
        reply = door.ask(Knock("cd" * 32, f"n{number}", ""), f"{number + 100:064x}")
        assert isinstance(reply, Challenge)
    assert refusal(door.ask(Knock("cd" * 32, "studio", ""), STUDIO)) == "busy"
    door.invite()
    assert isinstance(door.ask(join()), Welcome)


def test_a_copy_of_a_member_is_refused_and_both_are_named(door: Door) -> None:
    door.invite()
    door.ask(join())
    reply = door.ask(Knock("cd" * 32, "studio-copy", "aa" * 16))
    assert refusal(reply) == "clone"
    assert isinstance(reply, Refused)
    assert "studio-copy has the key of studio" in reply.said
    assert "pomona keys new" in reply.said


def test_a_member_takes_a_new_key(door: Door) -> None:
    door.invite()
    door.ask(join())
    assert isinstance(door.ask(Rekey(OTHER)), Welcome)
    assert door.members.by_key(STUDIO) is None
    assert door.members.by_name("studio") == Holder(OTHER, "studio", NOW)
    assert refusal(door.ask(Rekey(MINI), STUDIO)) == "unknown"
    assert refusal(door.ask(Rekey(HEAD_KEY), OTHER)) == "unknown"
