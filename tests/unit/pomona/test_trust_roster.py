"""The signed roster: accepted changes and senders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.errors import TrustError
from pomona.trust import roster as rosters
from pomona.trust.roster import Member, Roster
from pomona.trust.signing import new_curve_keys, new_signing_key, short_id

FIRST, SECOND, THIRD, STRANGER = (new_signing_key() for _ in range(4))
KEYS = [new_curve_keys()[0] for _ in range(6)]


def member(index: int, name: str = "", role: rosters.Role = "member") -> Member:
    return Member(short_id(KEYS[index]), KEYS[index], name or f"node-{index}", role, 1.0)


def a_roster() -> Roster:
    return rosters.found("home", [member(0, role="head")], FIRST)


def with_node(roster: Roster, index: int, secret: str = FIRST) -> Roster:
    return rosters.changed(roster, secret, lambda x: rosters.with_member(x, member(index)))


def test_a_roster_survives_its_encoding_and_is_valid() -> None:
    roster = with_node(a_roster(), 1)
    again = rosters.decode(rosters.encode(roster))
    assert again == roster
    rosters.check(again)


def test_the_cluster_id_is_its_name_unless_it_has_one() -> None:
    roster = rosters.found("", [member(0)], FIRST)
    assert roster.name == roster.cluster
    assert rosters.found("", [member(0)], SECOND).cluster != roster.cluster


CHANGES: dict[str, Callable[[Roster], Roster]] = {
    "version": lambda x: replace(x, version=x.version + 1),
    "name": lambda x: replace(x, name="other"),
    "member": lambda x: replace(x, members=(*x.members, member(2))),
    "role": lambda x: replace(x, members=(replace(x.members[0], role="member"),)),
    "no signature": lambda x: replace(x, signature=""),
    "signature": lambda x: replace(x, signature="00" * 64),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_roster_that_was_changed_without_the_key_is_refused(what: str) -> None:
    with pytest.raises(TrustError, match="not signed"):
        rosters.check(CHANGES[what](a_roster()))


def test_a_key_under_the_id_of_another_and_names_of_two_are_refused() -> None:
    forged = replace(member(1), id=member(2).id)
    with pytest.raises(TrustError, match="not the id of the key"):
        rosters.check(rosters.found("home", [member(0), forged], FIRST))
    with pytest.raises(TrustError, match="one name"):
        rosters.check(rosters.found("home", [member(0, "a"), member(1, "a")], FIRST))


def test_a_newer_roster_of_the_same_key_wins_and_an_older_one_does_not() -> None:
    older = a_roster()
    newer = with_node(older, 1)
    assert rosters.newest(older, newer) is newer
    assert rosters.newest(newer, older) is newer


def test_a_roster_of_another_cluster_or_of_a_stranger_never_wins() -> None:
    roster = a_roster()
    other = rosters.found("home", [member(3)], STRANGER)
    assert rosters.newest(roster, replace(other, version=99)) is roster
    forged = rosters.signed(replace(other, version=99), STRANGER)
    assert rosters.newest(roster, forged) is roster
    taken_over = replace(roster, version=99, members=(member(3),))
    assert rosters.newest(roster, taken_over) is roster


def test_a_node_that_was_off_accepts_the_chain_of_later_keys() -> None:
    asleep = a_roster()
    rotated = rosters.with_key(rosters.with_key(asleep, FIRST, SECOND), SECOND, THIRD)
    newest = with_node(rotated, 1, THIRD)
    assert rosters.newest(asleep, newest) is newest
    assert newest.cluster == asleep.cluster


def test_a_replaced_key_signs_nothing_any_more() -> None:
    roster = a_roster()
    rotated = rosters.with_key(roster, FIRST, SECOND)
    stolen = rosters.signed(replace(roster, version=99), FIRST)
    assert rosters.newest(rotated, stolen) is rotated
    with pytest.raises(TrustError, match="does not sign"):
        rosters.changed(rotated, FIRST, lambda x: x)


def test_a_chain_with_a_key_that_the_one_before_did_not_sign_is_refused() -> None:
    roster = a_roster()
    stranger = rosters.with_key(rosters.found("home", [member(3)], STRANGER), STRANGER, THIRD)
    grafted = replace(roster, version=9, key_changes=stranger.key_changes)
    assert rosters.newest(roster, rosters.signed(grafted, THIRD)) is roster


@given(st.permutations(range(6)))
def test_all_nodes_keep_the_same_roster_whatever_order_they_hear_them_in(order: list[int]) -> None:
    first = a_roster()
    second = with_node(first, 1)
    fork = with_node(first, 2)  # two heads changed one version
    rotated = rosters.with_key(second, FIRST, SECOND)
    final = with_node(rotated, 3, SECOND)
    heard = [first, second, fork, rotated, final, with_node(second, 4)]
    kept = first
    for index in order:
        kept = rosters.newest(kept, heard[index])
    assert kept == final


@given(st.binary(max_size=400))
def test_bytes_that_are_not_a_roster_are_refused(content: bytes) -> None:
    with pytest.raises(TrustError):
        rosters.decode(content)


@given(st.data())
def test_no_damaged_roster_is_accepted(data: st.DataObject) -> None:
    content = bytearray(rosters.encode(with_node(a_roster(), 1)))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 6))
    try:
        damaged = rosters.decode(bytes(content))
    except TrustError:
        return
    assert rosters.newest(a_roster(), damaged).version <= 2
    if damaged != with_node(a_roster(), 1):
        with pytest.raises(TrustError):
            rosters.check(damaged)
