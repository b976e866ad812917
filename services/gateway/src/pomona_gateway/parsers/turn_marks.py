"""Finds the marks of turns in a rendered prompt: headers, and a call that the prompt began."""

from __future__ import annotations

from pomona_gateway.parsers.notation import CallNotation, ReplyNotation

MAX_HEADER = 120
"""Characters of the longest header of a turn."""


def turn_headers(prompt: str, notation: ReplyNotation) -> tuple[str, ...]:
    """Returns the header of the assistant's turn, as the prompt ends with it."""
    rest = prompt.rstrip()
    if notation.reasoning is not None:
        rest = rest.removesuffix(notation.reasoning[0].strip()).rstrip()
    end = notation.turn_end
    whole = rest.rpartition(end)[2].strip() if end and end in rest else ""
    tag = rest[rest.rfind("<") :] if rest.endswith(">") else ""
    candidates = (whole, rest.rpartition("\n")[2].strip(), tag)
    others = {end, *(mark.strip() for mark in (*(notation.reasoning or ()), *notation.answer))}
    headers = [
        x
        for x in candidates
        if (x.startswith("<") or (x == whole and x.endswith(">")))
        and x not in others
        and len(x) < MAX_HEADER
    ]
    return tuple(dict.fromkeys(headers))


def turn_joint(calls: CallNotation | None, headers: tuple[str, ...]) -> str:
    """Returns the mark between two turns of one reply, like an answer and a call; empty for
    none."""
    between = (calls.between or "").strip() if calls is not None else ""
    return between if any(between.endswith(header) for header in headers) else ""


def begun_call(calls: CallNotation | None, prompt: str) -> str:
    """Returns the head of a call that the prompt already wrote; empty for none."""
    head = f"{calls.opening}{calls.head}".strip() if calls is not None else ""
    return head if head and prompt.rstrip().endswith(head) else ""
