"""Reads what stands where a model makes its calls: one call, or several."""

from __future__ import annotations

import re
from functools import lru_cache

from pomona_gateway.parsers.calls import CallReader, JsonCall, ObjectCall
from pomona_gateway.parsers.events import Part, Schemas, ToolCallArguments, ToolCallStart
from pomona_gateway.parsers.keyword_call import KeywordCall
from pomona_gateway.parsers.mlx_lm_call import MlxLmCall
from pomona_gateway.parsers.notation import (
    INDEX_SLOT,
    SLOTS,
    CallNotation,
    literal_pattern,
    longest_partial,
    tags,
)
from pomona_gateway.parsers.tagged_call import FieldForm, TaggedCall

MAX_HEAD = 400
"""Characters within which a call's name and the begin of its arguments must come."""

_NAME = r"(?P<name>[\w.:/-]+)"
_WORD = re.compile(r"[\w.:/-]+")
_FENCE = r"(?:```\w*+\s*+)?"
_FENCE_BEGIN = re.compile(r"```\w*+\s*+\[?\s*+")


class CallForm:
    """The patterns of one notation's calls."""

    def __init__(self, notation: CallNotation) -> None:
        self.notation = notation
        pieces = _with_slots(tags(f"{notation.opening}{notation.head}".replace("{", " {")))
        lead = [piece for piece in pieces if not piece.startswith(("{", '"', "[{"))]
        # A word before an object, such as ``functools[``, is a mark as a tag is.
        last = lead[-1] if lead and not _closed(lead[-1]) and not notation.is_object else ""
        openers = [*(lead[:-1] if last else lead), *notation.optional_marks]
        needed = last.startswith("<")
        self.openers = tuple(x.strip("".join(SLOTS)) for x in openers)
        opener = "|".join(map(literal_pattern, openers))
        before = rf"(?:{opener})*" if opener else ""
        self.before = re.compile(rf"{before}\s*+")
        own = literal_pattern(last) if needed else f"(?:{literal_pattern(last)})?"
        middles = [x for x in tags(notation.middle) if x != '":']
        optional = "".join(rf"(?:{literal_pattern(x)})?" for x in middles)
        tag = next((x for x in middles if x.startswith(("<", "["))), "")
        word = rf"(?:function\s*+{literal_pattern(tag)}\s*+)?" if tag else ""
        head = rf"{before}\s*+{word}{own}\s*+{_NAME}"
        inner = f"{notation.middle}{notation.fields.before if notation.fields else ''}"
        single = [x for x in tags(notation.tail)[:1] if x not in inner]
        ends = [notation.tail, notation.closing, *single]
        end = "|".join([literal_pattern(x) for x in ends if x.strip()] or [r"(?!)"])
        match notation.style:
            case "tagged":
                assert notation.fields is not None
                begin = literal_pattern(notation.fields.before)
                middle = literal_pattern(notation.middle)
                start = rf"{head}{middle}(?=\s*+(?:{begin}|{end}))"
                self.fields = FieldForm(
                    notation,
                    notation.fields,
                    "|".join(literal_pattern(x) for x in lead if x.startswith("<")),
                )
            case "keywords":
                start = rf"{before}\s*+{own}\s*+\[?\s*+{_NAME}\("
            case _:
                start = rf"{head}{optional}\s*+{_FENCE}(?:(?=\{{)|(?={end}))"
        self.start = re.compile(start)
        self.named = re.compile(
            rf"{before}\s*+{_NAME}\s*+(?:\[CALL_ID\]\s*+\w+\s*+)?(?:\[ARGS\])?\s*+(?=\{{)"
        )
        self.python = re.compile(rf"{before}\s*+\[?\s*+{_NAME}\(")
        self.whole = re.compile(rf"{head}{optional}\s*+\Z")
        self.object = re.compile(rf"{before}\s*+{_FENCE}\[?\s*+(?=\{{)")
        punctuation = "" if notation.style == "tagged" else "]}),\"' \n"
        ends = (notation.tail, notation.between or "", notation.closing)
        pieces = [x for end in ends for x in tags(end.lstrip(punctuation))]
        # A tag that ends several things says nothing by itself.
        closers = [x for x in pieces if x not in openers and pieces.count(x) == 1]
        self.closers = tuple(x for x in dict.fromkeys(closers) if x.strip('{}[]()",:; \n'))
        stops = {"keywords": r"\])", "tagged": ""}.get(notation.style, r"\]}")
        whole = [end.strip() for end in ends if end.strip()]
        closer = "|".join(
            [*map(literal_pattern, dict.fromkeys([*whole, *closers])), rf"[\s,;{stops}]", "```"]
        )
        self.noise = re.compile(rf"(?:{closer})*")
        self.last = last
        self.partials = tuple(
            x for x in (*self.openers, *whole, *self.closers, last, "```json") if x
        )

    @property
    def indexed(self) -> bool:
        """True when the number of the call follows its name."""
        return self.notation.middle.startswith(f":{INDEX_SLOT}")


def _with_slots(pieces: list[str]) -> list[str]:
    """Joins slots to the tag before them: a pattern that may be empty must not repeat."""
    out: list[str] = []
    for piece in pieces:
        if out and not piece.strip("".join(SLOTS)):
            out[-1] += piece
        else:
            out.append(piece)
    return out


def _closed(piece: str) -> bool:
    piece = piece.rstrip("".join(SLOTS))
    return piece.endswith((">", "]")) and not piece.endswith(">>>")


@lru_cache(maxsize=64)
def call_form(notation: CallNotation) -> CallForm:
    return CallForm(notation)


class CallSection:
    """Reads calls from where a mark begins them, the mark included.

    Args:
        marked: a mark begins the calls; else they stand bare, and name one of the tools.
        known_only: only calls of the tools count.

    Attributes:
        called: a call was read.
        over: the text that is left does not belong to the calls.
    """

    def __init__(
        self, notation: CallNotation, schemas: Schemas, marked: bool, known_only: bool
    ) -> None:
        self.called = False
        self.over = False
        self._form = call_form(notation)
        self._schemas = schemas
        self._marked = marked
        self._known_only = known_only or not marked
        self._call: CallReader | None = None
        self._lead = ""
        self._seen: set[str] = set()

    @property
    def closers(self) -> tuple[str, ...]:
        """Marks that may still end the calls."""
        return tuple(x for x in self._form.closers if x not in self._seen)

    def push(self, text: str, final: bool = False) -> tuple[list[Part], str]:
        """Reads more text. Returns events, and the text that is held back or, when the
        section is over, that follows it."""
        parts: list[Part] = []
        while not self.over:
            if self._call is not None:
                found, text = self._call.push(text, final)
                parts += found
                self.called = self.called or bool(found)
                if self._call.failed:
                    self.over, text = True, f"{self._lead}{text}"
                elif not self._call.done:
                    self.over = final
                    return parts, "" if final and self.called else text
                self._call, self._lead, self._seen = None, "", set()
                continue
            noise = self._form.noise.match(text) if self.called else None
            rest = text[noise.end() :] if noise else text
            if noise:
                self._seen |= {x for x in self._form.closers if x in noise[0]}
            if not rest:
                self.over = final
                return parts, rest if final else text
            begun = self._begin(rest, final, parts)
            if begun is not None:
                text = begun
                continue
            if not final and self._may_begin(rest):
                return parts, text
            # Blanks before an answer's text are its own.
            self.over, text = True, rest
        return parts, text

    def _begin(self, text: str, final: bool, parts: list[Part]) -> str | None:
        """Begins a call; returns the text after its head, or None when none begins."""
        form = self._form
        style = form.notation.style
        if style == "mlx_lm":
            head = form.notation.head
            if not text.startswith(head):
                return None
            self._call, self._lead = MlxLmCall(form.notation.parser, self._schemas), head
            return text[len(head) :]
        started = form.start.match(text, 0, MAX_HEAD)
        if form.notation.is_object:
            started = form.named.match(text, 0, MAX_HEAD) if self._marked else None
            if started is not None and "[ARGS]" not in started[0]:
                started = started if started["name"] in self._schemas else None
        python = form.python.match(text) if started is None else None
        if python is not None and (name := self._python_name(python["name"])):
            self._call = KeywordCall(name, self._schemas.get(name))
            return text[python.end() :]
        if started is not None:
            name = self._tool_name(started["name"])
            if self._known_only and name not in self._schemas:
                return None
            rest = text[started.end() :]
            self._call = self._reader(name, rest)
            if self._call is None:
                self.called = True
                parts += [ToolCallStart(name), ToolCallArguments("{}", last=True)]
            return rest
        listed = form.object.match(text)
        if listed is not None and (self._marked or style == "json"):
            self._call = ObjectCall(self._schemas, self._known_only)
            self._lead = text[: listed.end()]
            return text[listed.end() :]
        whole = form.whole.match(text) if final and self._marked else None
        if whole is not None and (name := self._tool_name(whole["name"])) in self._schemas:
            self.called = True
            parts += [ToolCallStart(name), ToolCallArguments("{}", last=True)]
            return ""
        return None

    def _reader(self, name: str, rest: str) -> CallReader | None:
        match self._form.notation.style:
            case "tagged":
                return TaggedCall(self._form.fields, self._schemas, name)
            case "keywords":
                return KeywordCall(name, self._schemas.get(name))
            case _:
                mark = self._form.notation.string_mark
                schema = self._schemas.get(name)
                return JsonCall(name, mark, schema) if rest.startswith("{") else None

    def _python_name(self, name: str) -> str:
        """The tool that a Python call names; empty for none."""
        bare = name.removesuffix(".call")
        return bare if bare in self._schemas else ""

    def _tool_name(self, name: str) -> str:
        """The name as the tools have it, without what notations add."""
        if name in self._schemas:
            return name
        bare = re.sub(r":\d+$", "", name) if self._form.indexed else name
        for prefix in ("functions.", "function.", "tools."):
            if bare.startswith(prefix) and bare != prefix:
                bare = bare.removeprefix(prefix)
        return bare if bare in self._schemas or self._form.indexed else name

    def _may_begin(self, text: str) -> bool:
        """Returns True when a call may still begin here as more text comes."""
        form = self._form
        lead = form.before.match(text)
        rest = text[lead.end() :] if lead else text
        if not rest or longest_partial(rest, form.partials):
            return True
        if len(text) > MAX_HEAD:
            return False
        if _FENCE_BEGIN.fullmatch(rest):
            return True
        if not self._marked:
            bracket = "?" if self.called else ""
            return re.fullmatch(rf"\[{bracket}\s*+[\w.-]*", rest) is not None
        if form.last and rest.startswith(form.last):
            rest = rest[len(form.last) :].lstrip()
        if rest.startswith("["):
            rest = rest[1:].lstrip()
        word = _WORD.match(rest)
        if word is None:
            return rest == "" or rest.startswith("```") or longest_partial(rest, form.partials)
        after = rest[word.end() :].lstrip()
        return not after or after[0] in "<[`\"'>:{(" or word.end() == len(rest)
