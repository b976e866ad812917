"""Both screens show the same six digits only for the same keys and nonces."""

from __future__ import annotations

from pomona.trust.digits import commitment, digits, grouped, is_committed, new_nonce

HEAD, JOINER, ATTACKER = "aa" * 32, "bb" * 32, "cc" * 32


def test_both_sides_compute_the_same_digits() -> None:
    head, joiner = new_nonce(), new_nonce()
    number = digits(HEAD, JOINER, head, joiner)
    assert number == digits(HEAD, JOINER, head, joiner)
    assert len(number) == 6
    assert number.isdecimal()
    assert grouped("012345") == "012 345"


def test_every_input_changes_the_digits() -> None:
    nonces = [bytes([x]) * 16 for x in range(4)]
    shown = {
        digits(HEAD, JOINER, nonces[0], nonces[1]),
        digits(ATTACKER, JOINER, nonces[0], nonces[1]),
        digits(HEAD, ATTACKER, nonces[0], nonces[1]),
        digits(HEAD, JOINER, nonces[2], nonces[1]),
        digits(HEAD, JOINER, nonces[0], nonces[3]),
    }
    assert len(shown) == 5


def test_a_commitment_fixes_nonce_and_key() -> None:
    nonce = new_nonce()
    committed = commitment(JOINER, nonce)
    assert is_committed(committed, JOINER, nonce)
    assert not is_committed(committed, ATTACKER, nonce)
    assert not is_committed(committed, JOINER, new_nonce())
