"""Derives a model's notation from its chat template: renders known turns and compares them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from pomona.errors import PomonaError
from pomona_gateway.parsers.derivation.call_notation import derive_calls
from pomona_gateway.parsers.derivation.known_notations import known_notation, known_reasoning
from pomona_gateway.parsers.derivation.renderings import (
    CONTENT,
    KEYS,
    NAMES,
    REASON,
    TOOLS,
    UNKNOWN_TOKENS,
    VALUES,
    Render,
    Renderings,
    atoms,
    same_end,
    same_start,
)
from pomona_gateway.parsers.events import (
    Part,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallStart,
)
from pomona_gateway.parsers.mlx_lm_parsers import find_parser, mlx_lm_parser
from pomona_gateway.parsers.notation import CallNotation, ReplyNotation, tags
from pomona_gateway.parsers.reader import MarkedReader

MAX_MIRRORED = 4
"""Most tags and words of one mark of reasoning that its other mark mirrors."""
_OPENS = re.compile(r"/|open|close|begin|end|start", re.IGNORECASE)
_SETTINGS = ({}, {"enable_thinking": True, "thinking": True}, {"keep_past_thinking": True})
_OPTIONAL = re.compile(r"<\|python_(?:tag|start)\|>")


class CompiledTemplate(Protocol):
    """A chat template that can be rendered."""

    @property
    def render(self) -> Render: ...


@lru_cache(maxsize=64)
def template_notation(
    template: str, compiled: Callable[[str, Mapping[str, str]], CompiledTemplate]
) -> ReplyNotation:
    """Derives the notation of a template whose special tokens are not known, in this process,
    without a deadline.

    Args:
        compiled: makes a template of its source and its special tokens.
    """
    try:
        return derive_notation(template, compiled(template, UNKNOWN_TOKENS).render)
    except PomonaError:
        return known_notation(template)


def derive_notation(template: str, render: Render) -> ReplyNotation:
    """Derives how the model that has this template writes its replies.

    Falls back to the notation of a known family for what cannot be derived.

    Args:
        template: the source of a Jinja chat template.
        render: renders it; see :class:`Render`.
    """
    known = known_notation(template)
    renderings = Renderings(render)
    shows_calls = renderings.choose_form()
    if known.harmony:
        return replace(known, arguments_as_text=renderings.as_text)
    text = renderings.turn(CONTENT) or ""
    reasoning = _reasoning(renderings, text) or known_reasoning(template)
    own = _turn_body(renderings, text, text, reasoning)
    marks = "".join(reasoning or ())
    unread = renderings.prompt[len(same_start(renderings.prompt, text)) :]
    if any(atom not in marks for atom in atoms(unread.strip())):
        # What stands before the answer may belong to the header.
        own = own[max(own.find(CONTENT), 0) :]
    notation = ReplyNotation(reasoning=reasoning, arguments_as_text=renderings.as_text)
    if not shows_calls:
        calls = known.calls or _read_by_mlx_lm(template, "")
        return replace(_with_ends(notation, own, ""), calls=calls)
    called = renderings.calls({KEYS[0]: VALUES[0]}) or ""
    body = _turn_body(renderings, called, text, reasoning)
    notation = _with_ends(notation, own, body)
    if notation.answer[0].strip():
        body = body.removeprefix("".join(notation.answer))
    derived = derive_calls(renderings, body, notation)
    if derived is None:
        return replace(notation, calls=known.calls or _read_by_mlx_lm(template, body))
    calls, shared = derived
    if shared:
        begin, end = notation.answer
        notation = replace(notation, answer=(f"{shared}{begin}", end))
    found = replace(notation, calls=calls)
    if found.calls_stand_bare:
        marks = tuple(dict.fromkeys(_OPTIONAL.findall(template)))
        found = replace(found, calls=replace(calls, optional_marks=marks))
    if known.calls is not None and not _reads(found, body):
        other = replace(notation, calls=known.calls)
        return other if _reads(other, body) else found
    return found


def _read_by_mlx_lm(template: str, turn: str) -> CallNotation | None:
    """Returns the notation that one of mlx-lm's parsers reads; None for none."""
    parser = mlx_lm_parser(find_parser(template, turn, [dict(tool) for tool in TOOLS], NAMES[0]))
    if parser is None:
        return None
    return CallNotation(
        "", parser.start, "", parser.end, "", "", style="mlx_lm", parser=parser.name
    )


def _turn_body(
    renderings: Renderings, turn: str, text: str, reasoning: tuple[str, str] | None
) -> str:
    """The part of a turn that the model writes, without an empty reasoning."""
    prompt = renderings.prompt
    header = same_start(prompt, turn)
    if not text.startswith(prompt) and turn != text:
        header = max(header, same_start(text, turn), key=len)
    body = turn[len(header) :]
    if reasoning is not None:
        begin, end = (re.escape(mark.strip()) for mark in reasoning)
        body = re.sub(rf"\A\s*(?:{begin})?\s*{end}\s*", "", body, count=1)
    return body


def _with_ends(notation: ReplyNotation, text_body: str, call_body: str) -> ReplyNotation:
    """Adds the marks around the answer and the mark that ends a turn."""
    begin, found, end = text_body.partition(CONTENT)
    if not found:
        return notation
    if not tags(begin) or begin.strip() == "":
        space = end[: len(end) - len(end.lstrip())]
        turn_end = next(iter(tags(end)), "")
        return replace(notation, answer=(begin, space), turn_end=_known_end(turn_end))
    mirrored = _mirrored(begin, end)
    shared = same_end(end, call_body)
    close = end[: len(end) - len(shared)].strip() if shared else ""
    close = mirrored[1] if mirrored is not None else close
    rest = end[end.find(close) + len(close) :].strip()
    marks = tags(rest)
    simple = bool(marks) and marks[0] not in tags(close) and marks[0] not in tags(begin)
    turn_end = marks[0] if simple else rest
    return replace(notation, answer=(begin, close), turn_end=_known_end(turn_end))


def _known_end(mark: str) -> str:
    # The commonest end of a sequence stands for one that is not known.
    return "</s>" if mark in UNKNOWN_TOKENS.values() else mark


def _reasoning(renderings: Renderings, text: str) -> tuple[str, str] | None:
    """Finds the marks around reasoning; None when the template writes none."""
    shown = called = ""
    for settings in _SETTINGS:
        renderings.variables = settings
        shown = renderings.turn(CONTENT, reasoning=True) or ""
        called = renderings.calls({KEYS[0]: VALUES[0]}, reasoning=True) or ""
        if REASON in shown or REASON in called:
            break
    renderings.variables = {}
    before, _, after = (shown if REASON in shown else called).partition(REASON)
    if not before and not after:
        return None
    mirrored = _mirrored(before, after)
    if mirrored is not None:
        return mirrored
    prompt = renderings.prompt
    if REASON in shown:
        end = after.partition(CONTENT)[0]
        answer = text[len(prompt) :].partition(CONTENT)[0] if text.startswith(prompt) else ""
        if answer.strip() and end.endswith(answer):
            end = end.removesuffix(answer)
        elif REASON in called:
            end = same_start(end, called.partition(REASON)[2])
    else:
        plain = renderings.calls({KEYS[0]: VALUES[0]}) or ""
        end = after.removesuffix(plain[len(same_start(before, plain)) :])
    begin = _begin(before, end, [prompt, text, renderings.earlier_turn(CONTENT) or ""])
    return (begin.strip(), end.strip()) if begin.strip() and end.strip() else None


def _begin(before: str, end: str, turns: list[str]) -> str:
    """The mark before the reasoning, found by what other turns begin
    with; the first is the prompt's."""
    prompt = turns[0]
    for whole, part in ((before, prompt), (prompt, before)):
        rest = whole[len(part) :].strip()
        if part.strip() and whole.startswith(part) and rest and rest != end.strip():
            return rest
    rests = [before[len(same_start(before, turn)) :] for turn in turns]
    rests = [rest for rest in rests if rest.strip()]
    return min(rests, key=len) if rests else before.rstrip().rpartition("\n")[2]


def _mirrored(before: str, after: str) -> tuple[str, str] | None:
    """Two marks that differ only in what says that one opens and the other closes."""
    left, right = atoms(before.rstrip()), atoms(after.lstrip())
    for size in range(min(MAX_MIRRORED, len(left), len(right)), 0, -1):
        begin, end = left[-size:], right[:size]
        if begin == end or not any(x.startswith(("<", "[")) for x in begin):
            continue
        if [_OPENS.sub("", x) for x in begin] == [_OPENS.sub("", x) for x in end]:
            return "".join(begin), "".join(end)
    return None


def _reads(notation: ReplyNotation, body: str) -> bool:
    """Returns True when the notation reads the known call back."""
    schemas = {name: {"properties": {}} for name in NAMES}
    reader = MarkedReader(notation, schemas, "")
    parts: list[Part] = [*reader.push(body), *reader.finish()]
    names = [part.name for part in parts if isinstance(part, ToolCallStart)]
    written = "".join(part.text for part in parts if isinstance(part, ToolCallArguments))
    rest = "".join(x.text for x in parts if isinstance(x, TextDelta | ReasoningDelta))
    return names == [NAMES[0]] and KEYS[0] in written and VALUES[0] in written and not rest
