"""Derives how a model writes tool calls from turns that its template renders."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pomona_gateway.parsers.derivation.renderings import (
    KEYS,
    NAMES,
    UNKNOWN_TOKENS,
    VALUES,
    Renderings,
    same_end,
    same_start,
)
from pomona_gateway.parsers.notation import (
    INDEX_SLOT,
    KEY_SLOT,
    NAME_SLOT,
    ArgumentStyle,
    CallNotation,
    FieldNotation,
    ReplyNotation,
)

_NUMBER = 41
_DIGITS = re.compile(r"(\d+)")
_OBJECT = re.compile(r"\{\s*[\"']?\Z")
_OBJECT_END = re.compile(r"[\"']?\s*\}")


@dataclass(frozen=True, slots=True)
class _Call:
    """A call as a turn shows it: what stands before its name, after its name, and behind."""

    before: str
    middle: str
    style: ArgumentStyle
    string_mark: str
    after: str


def derive_calls(
    renderings: Renderings, body: str, notation: ReplyNotation
) -> tuple[CallNotation, str] | None:
    """Derives the notation of calls; None when the template shows them otherwise.

    Args:
        body: a turn that calls the first tool with one argument, without its header.
        notation: the marks around it.

    Returns:
        The notation, and the part of a call's head that the prompt already writes.
    """
    one = _split(body, 0)
    if one is None:
        return None
    fields = _fields(renderings, one) if one.style == "tagged" else None
    if one.style == "tagged":
        if fields is None:
            return None
        middle = one.middle.removesuffix(fields.before)
        after = one.after.removeprefix(fields.after.replace(KEY_SLOT, KEYS[0]))
        one = _Call(one.before, middle, one.style, "", after)
    behind = _without_end(one.after, notation.turn_end)
    two = renderings.calls({KEYS[0]: VALUES[0]}, {KEYS[1]: VALUES[1]}) or ""
    _, found, rest = two.partition(NAMES[0])
    second = _second(rest, fields) if found and NAMES[1] in rest else None
    mark = '"' if one.style == "tagged" else one.string_mark or '"'
    if second is None:
        head = one.before.lstrip()
        tail = behind.rstrip()
        return CallNotation("", head, one.middle, tail, None, "", fields, one.style, mark), ""
    gap, middle = second
    prompted = renderings.prompt[-len(same_end(renderings.prompt, gap)) :] if gap else ""
    whole, gap_slots = one.before, gap
    if not whole.strip() and prompted.strip() and gap.endswith(prompted):
        whole = prompted
    else:
        prompted = ""
    head = _same_end_numbered(whole, gap_slots)
    tail = same_start(behind, gap)
    if len(tail) + len(head) > len(gap):
        head = head[len(tail) + len(head) - len(gap) :]
    between = gap[len(tail) : len(gap) - len(head)]
    opening = whole[: len(whole) - len(head)]
    if opening.strip():
        opening = opening.lstrip()
    else:
        opening, head = "", head.lstrip()
    slotted = _numbered(head, gap[len(gap) - len(head) :] if head else "")
    calls = CallNotation(
        opening,
        slotted,
        _numbered(one.middle, middle),
        tail,
        between,
        behind[len(tail) :].rstrip(),
        fields,
        one.style,
        mark,
    )
    return calls, prompted


def _split(body: str, which: int) -> _Call | None:
    name, key, value = NAMES[which], KEYS[which], VALUES[which]
    at = body.find(key)
    begin = body.rfind(name, 0, at)
    if begin < 0:
        return None
    before = body[:begin].replace(name, NAME_SLOT)
    middle = body[begin + len(name) : at]
    between, found, after = body[at + len(key) :].partition(value)
    if not found:
        return None
    if middle.endswith("(") and between.startswith("="):
        end = after.find(")")
        return _Call(before, "", "keywords", "", after[end + 1 :])
    own = re.fullmatch(r":\s*(\S*)", between)
    if middle.endswith("{") and own is not None and after.startswith(own[1]):
        mark = own[1]
        ended = re.match(r"\s*\}", after[len(mark) :])
        if ended is None:
            return None
        rest = after[len(mark) + ended.end() :]
        style: ArgumentStyle = "relaxed"
        return _Call(before, middle[:-1], style, mark, rest.replace(name, NAME_SLOT))
    opened = _OBJECT.search(middle)
    ended = _OBJECT_END.match(after)
    if opened is not None and ended is not None:
        rest = after[ended.end() :].replace(name, NAME_SLOT)
        return _Call(before, middle[: opened.start()], "json", "", rest)
    return _Call(before, middle, "tagged", between, after.replace(name, NAME_SLOT))


def _fields(renderings: Renderings, one: _Call) -> FieldNotation | None:
    """The notation of tagged arguments, from a call that has two."""
    middle = one.string_mark
    turn = renderings.calls({KEYS[0]: VALUES[0], KEYS[1]: VALUES[1]}) or ""
    gap = turn.partition(VALUES[0])[2].partition(KEYS[1])
    if not gap[1] or not middle.strip():
        return None
    before = same_end(one.middle, gap[0])
    if not before.strip():
        return None
    after = gap[0][: len(gap[0]) - len(before)]
    if not one.after.startswith(after):
        # White space between arguments is not part of the last one's end.
        shared = same_start(after, one.after)
        before, after = after[len(shared) :] + before, shared
    after = after.replace(KEYS[0], KEY_SLOT)
    if not after.strip():
        return None
    quoted = middle.endswith('"') and after.startswith('"')
    if quoted:
        middle, after = middle[:-1], after[1:]
    number = renderings.calls({KEYS[0]: _NUMBER}) or ""
    other = number.partition(KEYS[0])[2].partition(str(_NUMBER))[0]
    listed = renderings.calls({KEYS[0]: list(VALUES)}) or ""
    nested = listed.partition(KEYS[0])[2].partition(VALUES[0])[0]
    item = re.fullmatch(
        re.escape(middle) + r"\s*" + re.escape(before.strip()) + r"(\w+)" + re.escape(middle),
        nested,
    )
    return FieldNotation(
        before,
        middle,
        after,
        other_middle=other if other and other != middle and not quoted else "",
        item=item[1] if item else "",
        quoted=quoted,
        cdata="<![CDATA[" in (renderings.calls({KEYS[0]: "<&>"}) or ""),
    )


def _second(rest: str, fields: FieldNotation | None) -> tuple[str, str] | None:
    """Returns the text between two calls, and the text after the name of the second one."""
    first = _split(f"{NAMES[0]}{rest}", 0)
    if first is None:
        return None
    after = first.after
    if fields is not None:
        after = after.removeprefix(fields.after.replace(KEY_SLOT, KEYS[0]))
    at = after.find(KEYS[1])
    begin = after.rfind(NAMES[1], 0, at) if at >= 0 else -1
    if begin < 0:
        return None
    gap = after[:begin].replace(NAMES[1], NAME_SLOT)
    middle = after[begin + len(NAMES[1]) : at]
    if fields is not None:
        return gap, middle.removesuffix(fields.before)
    opened = _OBJECT.search(middle)
    return gap, middle[: opened.start()] if opened else middle.rstrip("({")


def _without_end(text: str, turn_end: str) -> str:
    ends = (turn_end, *UNKNOWN_TOKENS.values())
    found = [at for end in ends if end and (at := text.find(end)) >= 0]
    return text[: min(found)] if found else text


def _same_end_numbered(one: str, other: str) -> str:
    """The common end of two texts in which numbers may differ, as the first has it."""
    masked = same_end(_DIGITS.sub("0", one), _DIGITS.sub("0", other))
    size = 0
    while size < len(one) and len(_DIGITS.sub("0", one[len(one) - size :])) < len(masked):
        size += 1
    return one[len(one) - size :] if masked else ""


def _numbered(one: str, other: str) -> str:
    """The first text with slots for the numbers that differ in the other."""
    left, right = _DIGITS.split(one), _DIGITS.split(other)
    if left[::2] != right[::2]:
        return one
    return "".join(
        INDEX_SLOT if n % 2 and piece != right[n] else piece for n, piece in enumerate(left)
    )
