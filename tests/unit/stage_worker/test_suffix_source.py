"""Guesses follow the longest match of a sequence's last tokens."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pomona_stage_worker.speculation.suffix_source import (
    MIN_MATCH,
    SuffixDrafter,
    SuffixSource,
    longest_match,
)

TEXT = list(range(100, 160))


def guesses(drafter: SuffixDrafter, tokens: list[int], count: int = 4) -> list[int]:
    return [proposal.token for proposal in drafter.propose(tokens, [], count)]


def slowly(text: list[int], suffix: list[int]) -> int:
    """Returns the length of the longest end of ``suffix`` in ``text`` before its last token."""
    for length in range(len(suffix), 0, -1):
        for end in range(length, len(text)):
            if text[end - length : end] == suffix[-length:]:
                return length
    return 0


@given(
    text=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    suffix=st.lists(st.integers(0, 3), min_size=1, max_size=8),
)
def test_the_longest_match_is_found(text: list[int], suffix: list[int]) -> None:
    place, matched = longest_match(np.asarray(text, dtype=np.int32), suffix)
    assert matched == slowly(text, suffix)
    if matched:
        assert text[place - matched : place] == suffix[-matched:]
        assert place < len(text)


def test_a_text_that_repeats_is_followed() -> None:
    drafter = SuffixDrafter(lambda: [])
    tokens = [*TEXT, *TEXT[:MIN_MATCH]]
    assert guesses(drafter, tokens) == TEXT[MIN_MATCH : MIN_MATCH + 4]


def test_a_short_match_is_not_followed() -> None:
    drafter = SuffixDrafter(lambda: [])
    assert guesses(drafter, [*TEXT, *TEXT[: MIN_MATCH - 1]]) == []


def test_guesses_go_on_after_those_in_flight() -> None:
    drafter = SuffixDrafter(lambda: [])
    tokens = [*TEXT, *TEXT[:5]]
    first = drafter.propose(tokens, [], 2)
    then = drafter.propose(tokens, [proposal.token for proposal in first], 2)
    assert [p.token for p in (*first, *then)] == TEXT[5:9]


def test_a_replaced_word_is_skipped() -> None:
    drafter = SuffixDrafter(lambda: [])
    tokens = [*TEXT, *TEXT[:10]]
    assert guesses(drafter, tokens, 1) == [TEXT[10]]
    drafter.missed()
    tokens += [7]
    assert guesses(drafter, tokens, 1) == []
    drafter.missed()
    tokens += [TEXT[11]]
    assert guesses(drafter, tokens, 2) == TEXT[12:14]


def test_other_texts_of_the_tenant_are_searched() -> None:
    known = {"a": [np.asarray(TEXT, dtype=np.int32)]}
    source = SuffixSource(lambda tenant: known.get(tenant, []))
    tokens = [1, 2, 3, *TEXT[20:24]]
    assert guesses(source.drafter(1, "a", 3, ()), tokens, 2) == TEXT[24:26]
    assert guesses(source.drafter(1, "b", 3, ()), tokens, 2) == []


def test_a_predicted_reply_is_followed_from_its_first_token() -> None:
    drafter = SuffixDrafter(lambda: [], TEXT)
    assert guesses(drafter, [1, 2, 3, TEXT[0]], 3) == TEXT[1:4]


def test_longer_matches_have_more_confidence() -> None:
    confidences = [
        SuffixDrafter(lambda: []).propose([*TEXT, *TEXT[:length]], [], 1)[0].confidence
        for length in (3, 6, 16)
    ]
    assert confidences == [1, 2, 3]


def test_its_own_tokens_grow() -> None:
    drafter = SuffixDrafter(lambda: [])
    tokens = list(TEXT)
    for token in TEXT * 20:
        found = guesses(drafter, tokens, 1)
        tokens.append(token)
        if found and found != [token]:
            drafter.missed()
    assert guesses(drafter, tokens, 3) == TEXT[:3]
