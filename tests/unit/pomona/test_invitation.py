"""An invitation survives a copied line, and a damaged one is told from another text."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomona.trust.invitation import (
    PREFIX,
    Invitation,
    InvitationError,
    decode_invitation,
    encode_invitation,
    key_hash,
)

KEY = "ab" * 32
hosts = st.one_of(
    st.ip_addresses(v=4).map(str), st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,60}", fullmatch=True)
)
invitations = st.builds(
    Invitation,
    st.lists(st.tuples(hosts, st.integers(1, 65535)), min_size=1, max_size=8).map(tuple),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
)


@given(invitations)
def test_an_invitation_is_read_back(invitation: Invitation) -> None:
    text = encode_invitation(invitation)
    assert text.startswith(PREFIX)
    assert decode_invitation(text) == invitation
    assert decode_invitation(f"  {text[:20]}\n{text[20:].upper()} ") == invitation


@given(invitations, st.data())
def test_a_changed_character_is_noticed(invitation: Invitation, data: st.DataObject) -> None:
    text = encode_invitation(invitation)
    place = data.draw(st.integers(len(PREFIX), len(text) - 1))
    other = data.draw(st.sampled_from([x for x in "abcdefgh234567189!" if x != text[place]]))
    changed = text[:place] + other + text[place + 1 :]
    with contextlib.suppress(InvitationError):
        assert decode_invitation(changed) == invitation, "only padding bits may be ignored"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not an invitation"),
        ("sk-1234", "is not an invitation"),
        ("pom2-abcdef", "another version"),
        ("pom1-", "incomplete"),
        ("pom1-abc", "incomplete"),
        ("pom1-" + "a" * 60, "incomplete"),
        ("pom1-" + "a" * 10_000, "is not an invitation"),
    ],
)
def test_other_text_is_refused_with_its_reason(text: str, said: str) -> None:
    with pytest.raises(InvitationError, match=said):
        decode_invitation(text)


def test_a_cut_line_is_incomplete() -> None:
    text = encode_invitation(Invitation((("10.0.0.1", 22419),), key_hash(KEY), bytes(16)))
    for length in range(len(PREFIX), len(text)):
        with pytest.raises(InvitationError):
            decode_invitation(text[:length])


def test_the_key_is_known_by_its_hash() -> None:
    invitation = Invitation((("h", 1),), key_hash(KEY), bytes(16))
    assert invitation.is_key(KEY)
    assert not invitation.is_key("ac" * 32)


@pytest.mark.parametrize("addresses", [(), (("h", 1),) * 9, (("bad host", 1),)])
def test_addresses_that_do_not_fit_are_refused(addresses: tuple[tuple[str, int], ...]) -> None:
    with pytest.raises(InvitationError):
        encode_invitation(Invitation(addresses, bytes(16), bytes(16)))
