"""Reads replies in which marks set reasoning and tool calls apart from the answer."""

from __future__ import annotations

import re
from typing import Literal

from pomona_gateway.parsers.bare_calls import BareCalls
from pomona_gateway.parsers.call_section import CallSection
from pomona_gateway.parsers.events import (
    Part,
    ReasoningDelta,
    Schemas,
    TextDelta,
    ToolCallStart,
    overlap,
)
from pomona_gateway.parsers.notation import ReplyNotation
from pomona_gateway.parsers.turn_marks import begun_call, turn_headers, turn_joint

_TOKENS = re.compile(r"\s*(?:<[^<>\s]*>\s*)*(?:<[^<>\s]*)?")


class MarkedReader:
    """Reads one reply.

    Args:
        schemas: parameter schemas by tool name; None when no tool may be called.
        prompt: the rendered prompt, which may have opened the reasoning.
        opened: the reply begins inside the reasoning, whatever the prompt ends with.
    """

    def __init__(
        self, notation: ReplyNotation, schemas: Schemas | None, prompt: str, opened: bool = False
    ) -> None:
        self._notation = notation
        self._schemas = schemas or {}
        self._calls = notation.calls if schemas is not None else None
        self._triggers = notation.call_marks if self._calls is not None else ()
        bare = self._calls is not None and notation.calls_stand_bare
        self._bare_calls = BareCalls(notation, self._schemas) if bare else None
        self._may_call_first = bare
        self._begin_mark, self._end_mark = (mark.strip() for mark in notation.reasoning or ("", ""))
        self._first_marks = {mark.strip() for mark in notation.reasoning or ()}
        self._state: Literal["answer", "reasoning"] = "answer"
        if opened or notation.opened(prompt):
            self._state = "reasoning"
        self._section: CallSection | None = None
        self._tentative: list[Part] | None = None
        self._headers = turn_headers(prompt, notation)
        self._joint = turn_joint(self._calls, self._headers)
        lead = notation.answer[0]
        self._lead = "" if lead.strip() else lead
        self._lead_read = ""
        self._held = self._prompted = begun_call(self._calls, prompt) if self._triggers else ""
        self._space = ""
        self._skipped = 0
        self._stray: tuple[str, ...] = ()
        self._fresh = True
        self._answered = False
        self._reasoned = False
        self._may_reason = True
        self._called = False
        self._opened = False
        self._ended = False
        self._cut = False

    @property
    def thinking(self) -> bool:
        return self._state == "reasoning" and self._section is None

    def push(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while self._step(parts, final=False):
            pass
        return parts

    def finish(self, cut: bool = False) -> list[Part]:
        parts: list[Part] = []
        while self._step(parts, final=False):
            pass
        if cut:
            self._drop_begun()
        while self._step(parts, final=True):
            pass
        self._release_calls(parts)
        space, self._space = "" if self._ended else self._space, ""
        if self._called and self._fresh and not _TOKENS.fullmatch(space):
            parts.append(TextDelta(space.strip())) if space.strip() else None
        kept = self._notation.answer[1]
        if self._state == "answer" and self._answered and not self._called and space != kept:
            parts.append(TextDelta(space)) if space else None
        return parts

    def _drop_begun(self) -> None:
        """Drops the beginning of a call or of a mark, which a limit cut off."""
        self._cut = True
        if self._section is not None and not self._section.called:
            self._section, self._held = None, ""
        elif self._section is None and (self._bare_calls is None or self._held.strip() not in "{["):
            self._held = ""

    def _step(self, parts: list[Part], final: bool) -> bool:
        """Reads the certain part; True when more may be read."""
        if self._section is not None:
            return self._read_calls(parts, final)
        bare = self._bare_calls if self._may_call_first and self._state == "answer" else None
        if bare is not None and self._may_be_bare(bare, final):
            return self._section is not None
        marks = self._marks()
        found = [
            (at, -len(mark), mark)
            for mark in marks
            if (at := self._held.find(mark, self._skipped)) >= 0 and self._may_stand(mark, at)
        ]
        late = self._late_call(final)
        if late is not None and (not found or late[0] < min(found)[0]):
            return self._begin_late(parts, *late)
        if not found:
            keep = 0 if final else max((overlap(self._held, mark) for mark in marks), default=0)
            cut = max(len(self._held) - keep, self._skipped)
            self._emit(parts, self._held[:cut])
            self._held, self._skipped = self._held[cut:], 0
            return False
        at, _, mark = min(found)
        longer = [x for x in marks if x != mark and x.startswith(self._held[at:])]
        if longer and not final:
            self._emit(parts, self._held[:at])
            self._held, self._skipped = self._held[at:], 0
            return False
        self._emit(parts, self._held[:at])
        self._held, self._skipped = self._held[at:], 0
        self._turn(parts, mark)
        return True

    def _may_stand(self, mark: str, at: int) -> bool:
        """Returns True when a mark counts: reasoning comes before all text of the answer, and
        the header of a turn right after the end of another."""
        literal = mark != self._begin_mark or "|" not in mark
        in_answer = self._state == "answer" and mark in self._first_marks and literal
        again = self._state == "reasoning" and mark == self._begin_mark != self._end_mark
        first = mark in self._headers or ((in_answer or again) and mark != self._joint)
        return not first or not self._held[:at].strip()

    def _late_call(self, final: bool) -> tuple[int, bool] | None:
        """Finds a bare call behind text. Returns its place, and whether it is certain."""
        if self._bare_calls is None or self._state != "answer" or self._tentative is not None:
            return None
        return self._bare_calls.late(self._held, self._skipped, final)

    def _begin_late(self, parts: list[Part], at: int, certain: bool) -> bool:
        """Begins calls behind text. They count when only blanks follow them."""
        self._emit(parts, self._held[:at])
        self._held, self._skipped = self._held[at:], 0
        if certain:
            self._tentative, self._raw, self._space = [], self._space, ""
            self._begin_calls(marked=False)
        return certain

    def _turn(self, parts: list[Part], mark: str) -> None:
        """Goes on after a mark, which begins the held text."""
        notation = self._notation
        if mark in self._triggers:
            if self._state == "reasoning":
                self._tentative = []
                self._raw = ""
            self._begin_calls(marked=True)
            return
        self._held = self._held[len(mark) :]
        if mark in self._headers or (mark == self._joint and self._state == "answer"):
            # Another turn of the assistant goes on with the reply.
            self._space, self._ended = "", False
            self._fresh = self._opened = self._may_reason = True
            return
        if mark == notation.turn_end:
            # It is text when more text follows.
            self._space += mark
            self._ended = True
            return
        if self._state == "reasoning" and mark == self._begin_mark != self._end_mark:
            # The prompt had already opened it.
            self._space = ""
            return
        if self._state == "reasoning":
            self._state, self._reasoned, self._may_reason = "answer", True, False
            self._release_calls(parts, mention=True)
        elif notation.reasoning is not None and mark == notation.reasoning[0].strip():
            self._state, self._ended = "reasoning", False
        elif mark == notation.answer[0].strip():
            self._opened = True
        elif mark in self._stray:
            self._stray = ()
        self._space, self._fresh = "", True

    def _begin_calls(self, marked: bool) -> None:
        assert self._calls is not None
        known_only = self._state == "reasoning"
        self._section = CallSection(self._calls, self._schemas, marked, known_only)
        self._before = self._held

    def _read_calls(self, parts: list[Part], final: bool) -> bool:
        assert self._section is not None
        events, rest = self._section.push(self._held, final)
        if any(isinstance(event, ToolCallStart) for event in events):
            # Blank lines before a call are not part of the answer.
            if self._tentative is not None or "\n" in self._space or self._state == "reasoning":
                self._space = ""
            elif self._space and self._answered:
                parts.append(TextDelta(self._space))
            self._space = ""
        if self._tentative is not None:
            self._tentative += events
            self._raw += self._held[: max(len(self._held) - len(rest), 0)]
        else:
            parts += events
        self._held = "" if self._cut else rest
        if not self._section.over:
            return False
        section, self._section = self._section, None
        prompted, self._prompted = self._prompted, ""
        if section.called:
            self._stray = section.closers
            self._called = self._fresh = True
        else:
            # The mark was only mentioned.
            if self._tentative is not None and not self._tentative:
                self._tentative = None
            self._held = rest = rest.removeprefix(prompted)
            first = min((len(x) for x in self._triggers if rest.startswith(x)), default=1)
            if not any(rest.startswith(x) for x in self._triggers):
                self._may_call_first = False
            self._skipped = min(first, len(rest))
        return bool(self._held)

    def _release_calls(self, parts: list[Part], mention: bool = False) -> None:
        """Emits the calls found inside the reasoning, which count when only blanks follow."""
        held, self._tentative = self._tentative, None
        if held is None:
            return
        if mention and self._held.strip():
            parts.append(self._plain(self._raw))
        else:
            parts += held

    def _marks(self) -> list[str]:
        notation = self._notation
        headers = self._headers if self._ended else ()
        if self._state == "reasoning":
            assert notation.reasoning is not None
            again = self._begin_mark if self._fresh else ""
            own = (self._end_mark, *self._triggers, notation.turn_end, *headers, again)
            return [x for x in own if x]
        if self._ended:
            return [
                x for x in (*self._triggers, notation.turn_end, *headers, self._begin_mark) if x
            ]
        marks = [*self._triggers]
        if notation.reasoning is not None and self._may_reason:
            marks += [x.strip() for x in notation.reasoning]
        elif "|" in self._begin_mark:
            # A special token is not a literal mark, which an answer may mention.
            marks.append(self._begin_mark)
        marks += [x.strip() for x in notation.answer]
        marks += [*self._stray, notation.turn_end, self._joint]
        return [mark for mark in dict.fromkeys(marks) if mark]

    def _emit(self, parts: list[Part], text: str) -> None:
        blank = self._state == "reasoning" or self._reasoned or self._called or self._opened
        if self._fresh and blank:
            text = text.lstrip()
        elif self._lead and not self._answered:
            # The template writes blanks before each answer.
            read, self._lead_read = f"{self._lead_read}{text}", ""
            if self._lead.startswith(read):
                self._lead_read = "" if read == self._lead else read
                self._lead = "" if read == self._lead else self._lead
                return
            text, self._lead = read.removeprefix(self._lead), ""
        if not text:
            return
        if self._tentative is not None and not _TOKENS.fullmatch(f"{self._space}{text}"):
            # The call was only mentioned.
            parts.append(self._plain(self._raw))
            self._tentative, self._called = None, False
        text = self._space + text
        ending = text.removeprefix(self._notation.turn_end) if self._ended else text
        if (self._ended or (self._called and self._fresh)) and _TOKENS.fullmatch(ending):
            # Tokens that end a turn may follow a call.
            self._space = text
            return
        self._ended = False
        body = text.rstrip()
        if body and "\n" not in text[len(body) :]:
            # Only blank lines may belong to a mark that follows.
            body = text
        self._space = text[len(body) :]
        if not body:
            return
        self._fresh = False
        if self._state == "reasoning":
            parts.append(ReasoningDelta(body))
        else:
            self._answered, self._may_reason = True, False
            parts.append(TextDelta(body))

    def _plain(self, text: str) -> Part:
        return ReasoningDelta(text) if self._state == "reasoning" else TextDelta(text)

    def _may_be_bare(self, calls: BareCalls, final: bool) -> bool:
        """Begins the calls of a model that marks them by nothing, or waits for them."""
        if self._answered:
            return False
        text = self._held.lstrip()
        if not text:
            return not final
        begins = False if self._skipped else calls.begin(text)
        if begins is None:
            return not final
        if begins:
            self._held = text
            self._begin_calls(marked=False)
        return begins
