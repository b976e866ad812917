"""Notations: the marks around reasoning, answers and tool calls in a model's replies.

The same description serves for reading replies and for the grammars that constrain them.
Literals may hold slots: characters that stand for a text which differs from call to call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

NAME_SLOT = "\x01"
"""The name of the tool, where a notation repeats it."""
INDEX_SLOT = "\x02"
"""The number of the call."""
ID_SLOT = "\x03"
"""The id of the call."""
KEY_SLOT = "\x04"
"""The name of an argument, where a notation repeats it."""
SLOTS = (NAME_SLOT, INDEX_SLOT, ID_SLOT, KEY_SLOT)

ArgumentStyle: TypeAlias = Literal["json", "relaxed", "tagged", "keywords", "mlx_lm"]
"""``json``: one JSON object. ``relaxed``: one object with bare keys and strings between marks.
``tagged``: one after the other between tags. ``keywords``: as a Python call has them.
``mlx_lm``: as one of mlx-lm's parsers reads them."""

_TAG = re.compile(r"<[^<>\s]+>|\[[A-Z_/]+\]|<[^<>]*$|<[^\s<>]*|[^\s<]+")
_BEFORE_JSON = re.compile(r'\[?\s*\{\s*(?:"[^"]*"\s*:\s*"[^"]*"\s*,\s*)*"')


@dataclass(frozen=True, slots=True)
class FieldNotation:
    """Arguments one by one: ``before`` KEY ``middle`` VALUE ``after``.

    Attributes:
        other_middle: ``middle`` of a value that is not a string, where a notation tells
            those apart; empty where it does not.
        item: the tag of an item of a list, where values nest by tags; empty where they are
            JSON.
        quoted: strings are written as JSON, with their quotes.
        cdata: strings that hold marks stand in a CDATA section.
    """

    before: str
    middle: str
    after: str
    other_middle: str = ""
    item: str = ""
    quoted: bool = False
    cdata: bool = False


@dataclass(frozen=True, slots=True)
class CallNotation:
    """``opening``, a call, perhaps ``between`` and another call, and so on, ``closing``.

    A call is ``head`` NAME ``middle`` ARGUMENTS ``tail``.

    Attributes:
        between: None when a reply has only one call.
        fields: how tagged arguments are written; None for the other styles.
        string_mark: what delimits strings in the relaxed style.
        optional_marks: marks that may stand before a call that needs none.
        parser: name of mlx-lm's parser, in the style ``mlx_lm``; ``head`` and ``tail`` are its
            marks.
    """

    opening: str
    head: str
    middle: str
    tail: str
    between: str | None
    closing: str
    fields: FieldNotation | None = None
    style: ArgumentStyle = "json"
    string_mark: str = '"'
    optional_marks: tuple[str, ...] = ()
    parser: str = ""

    @property
    def is_object(self) -> bool:
        """True when a call is one JSON object that has the name and the arguments."""
        return self.style == "json" and bool(_BEFORE_JSON.search(self.head))

    @property
    def writes_strings_bare(self) -> bool:
        """True when strings stand without the quotes and the escapes of JSON."""
        fields = self.fields
        return self.style == "relaxed" or (fields is not None and not fields.quoted)

    @property
    def literals(self) -> tuple[str, ...]:
        fields = self.fields
        own = (self.opening, self.head, self.middle, self.tail, self.between or "", self.closing)
        own += self.optional_marks
        if fields is None:
            return (*own, self.string_mark)
        return (*own, fields.before, fields.middle, fields.other_middle, fields.after)


@dataclass(frozen=True)
class ReplyNotation:
    """Notation of one model's replies.

    Attributes:
        harmony: replies are messages in the Harmony format; the rest is then empty.
        reasoning: the marks around reasoning.
        answer: the marks around the answer; empty where it stands bare.
        calls: None when the model cannot call tools.
        turn_end: the mark that ends a turn; it is not part of the reply.
        arguments_as_text: the template wants the arguments of a call as JSON text.
    """

    harmony: bool = False
    reasoning: tuple[str, str] | None = None
    answer: tuple[str, str] = ("", "")
    calls: CallNotation | None = None
    turn_end: str = ""
    arguments_as_text: bool = False

    @property
    def reasons(self) -> bool:
        return self.harmony or self.reasoning is not None

    @property
    def calls_tools(self) -> bool:
        return self.harmony or self.calls is not None

    @cached_property
    def call_marks(self) -> tuple[str, ...]:
        """Texts that may begin a call, the usual one first."""
        if self.calls is None:
            return ()
        return (*opening_marks(self), *self.calls.optional_marks)

    @property
    def calls_stand_bare(self) -> bool:
        """True when a reply may be a call without any mark."""
        return self.calls is not None and not opening_marks(self)

    @property
    def names_first(self) -> bool:
        """True when nothing but the tool's name stands before the arguments."""
        calls = self.calls
        return calls is not None and calls.style == "json" and not f"{calls.opening}{calls.head}"

    def visible(self, special: Iterable[str], tools: bool) -> frozenset[str]:
        """Chooses the special tokens that the reader needs to see in the text.

        Args:
            special: the tokenizer's special tokens.
            tools: whether calls are read.
        """
        if self.harmony:
            return frozenset(HARMONY_MARKS)
        needed = [*(self.reasoning or ()), *self.answer]
        if tools and self.calls is not None:
            needed += self.calls.literals
        return frozenset(name for name in special if name and any(name in x for x in needed))

    def opened(self, prompt: str) -> bool:
        """Returns True when the rendered prompt already opened the reasoning."""
        if self.reasoning is None:
            return False
        begin, end = (mark.strip() for mark in self.reasoning)
        rest = prompt.rstrip()
        return bool(begin) and rest.endswith(begin) and not (end and rest.endswith(end))

    def left_open(self, text: str) -> bool:
        """Returns True when a text of the assistant opens the reasoning and does not end it."""
        if self.reasoning is None:
            return False
        begin, end = (text.rfind(mark.strip()) for mark in self.reasoning)
        return bool(self.reasoning[0].strip()) and begin > end


HARMONY_MARKS = (
    "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>",
)  # fmt: skip


def tags(literal: str) -> list[str]:
    """Splits a literal into its tags and words; an unclosed tag at its end is one."""
    return _TAG.findall(literal)


def opening_marks(notation: ReplyNotation) -> tuple[str, ...]:
    calls = notation.calls
    assert calls is not None
    whole = f"{calls.opening}{calls.head}"
    plain = re.split(f"[{''.join(SLOTS)}]", whole)[0].strip()
    plain = re.split(r"\[?\s*\{", plain)[0].rstrip()
    if plain.strip("[({ \n") == "":
        return ()
    others = [*(notation.reasoning or ()), *notation.answer, notation.turn_end]
    taken = {tag for mark in others for tag in tags(mark)}
    first, *more = tags(plain)
    if first in taken:
        return (plain,)
    if not first.startswith(("<", "[")):
        first = plain.split()[0]
    # A model may forget the outer mark and begin with an inner one.
    inner = [
        tag
        for tag in more
        if tag.startswith("<") and len(tag) > 4 and tag not in taken and tag not in first
    ]
    return tuple(dict.fromkeys([first, *inner]))


_SLOT_PATTERNS = {
    NAME_SLOT: r"[\w.:/-]+?",
    INDEX_SLOT: r"\d*",
    ID_SLOT: r"[\w.:-]*?",
    KEY_SLOT: r"[^<>\n]+?",
}
_PIECES = re.compile(rf"\s+|[{''.join(SLOTS)}]|[^\s{''.join(SLOTS)}]+")


def literal_pattern(literal: str) -> str:
    """Returns a pattern for a literal in which white space may be more, less or none.

    It gives no white space back, so that a long run costs no more than its length.
    """
    out: list[str] = [r"\s*+"]
    for piece in _PIECES.findall(literal):
        if piece.isspace():
            out.append(r"\s*+")
        else:
            out.append(_SLOT_PATTERNS.get(piece) or re.escape(piece))
    return "".join(out)


def longest_partial(text: str, literals: tuple[str, ...]) -> bool:
    """Returns True when the text is a proper prefix of one of the literals."""
    return any(len(text) < len(literal) and literal.startswith(text) for literal in literals)
