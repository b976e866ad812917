"""Rewrites Lark grammars to match a text as JSON writes it inside of a string."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from re import _constants as ops  # type: ignore[reportPrivateUsage]  # the parser of re itself
from re import _parser as parser  # type: ignore[reportPrivateUsage]  # the parser of re itself
from typing import Any

_TOKEN = re.compile(
    r"(?P<comment>//[^\n]*)"
    r'|(?P<string>"(?:\\.|[^"\\\n])*"i?)'
    r"|(?P<regex>/(?![/*])(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n])*/[a-z]*)"
    r"|(?P<alias>->\s*\w+)"
    r"|(?P<imported>%import\s+common\.(?P<common>\w+)[^\n]*)"
    r"|(?P<terminal>\b_?[A-Z][A-Z0-9_]*\b)"
)
_UNKNOWN = re.compile(r"%|<\[|@|\[lazy|\[capture")
"""Directives and llguidance's own extensions, which are not rewritten."""
_COMMON = {
    "LF": r"\n", "CR": r"\r", "NEWLINE": r"(\r?\n)+", "WS": r"[ \t\f\r\n]+",
    "WS_INLINE": r"[ \t]+", "DIGIT": "[0-9]", "INT": "[0-9]+", "SIGNED_INT": "[+-]?[0-9]+",
    "NUMBER": r"[0-9]+(\.[0-9]+)?", "LETTER": "[a-zA-Z]", "WORD": "[a-zA-Z]+",
    "CNAME": "[a-zA-Z_][a-zA-Z0-9_]*", "ESCAPED_STRING": r'"([^"\\\n]|\\.)*"',
}  # fmt: skip
"""Lark's common terminals, as regular expressions."""
_SPECIAL = '"\\\b\f\n\r\t'
_OUTSIDE = ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
"""Code points that JSON escapes."""
_LAST = 0x10FFFF
_CLASSES = {
    ops.CATEGORY_DIGIT: r"\d",
    ops.CATEGORY_NOT_DIGIT: r"\D",
    ops.CATEGORY_SPACE: r"\s",
    ops.CATEGORY_NOT_SPACE: r"\S",
    ops.CATEGORY_WORD: r"\w",
    ops.CATEGORY_NOT_WORD: r"\W",
}


def json_escaped(source: str) -> str:
    """Returns a grammar for the JSON escapes of a Lark grammar's matches.

    Raises:
        ValueError: the grammar has a construct that cannot be rewritten.
    """
    rest = _TOKEN.sub("", source)
    if unknown := _UNKNOWN.search(rest):
        raise ValueError(f"{unknown[0]!r} cannot be used in the grammar of an input")
    try:
        return _TOKEN.sub(_rewritten, source)
    except (re.error, SyntaxError, OverflowError, RecursionError, KeyError) as error:
        raise ValueError(str(error)) from error


def _rewritten(found: re.Match[str]) -> str:
    if found["comment"] is not None or found["alias"] is not None:
        return ""
    if found["imported"] is not None:
        return f"{_rule_name(found['common'])}: {_expression(_COMMON[found['common']])}\n"
    if found["terminal"] is not None:
        return _rule_name(found["terminal"])
    if found["string"] is not None:
        quoted = found["string"].removesuffix("i")
        return _literal(str(ast.literal_eval(quoted)), found["string"][len(quoted) :])
    body, _, flags = found["regex"][1:].rpartition("/")
    return _expression(body, "s" in flags)


def _rule_name(terminal: str) -> str:
    """Returns the name of a rule. A terminal would be read greedily as a whole."""
    return f"t_{terminal.lower()}"


def _expression(pattern: str, dot_all: bool = False) -> str:
    """Returns an expression, a character at a time, for the escapes of a pattern's matches.

    Raises:
        ValueError: the pattern has look-around or a back-reference.
    """
    return f"({_sequence(parser.parse(pattern), dot_all)})"


def _sequence(parts: Iterable[tuple[Any, Any]], dot_all: bool) -> str:
    return " ".join(_part(op, value, dot_all) for op, value in parts) or '""'


def _part(op: Any, value: Any, dot_all: bool) -> str:
    match op:
        case ops.LITERAL:
            return _literal(chr(value))
        case ops.NOT_LITERAL:
            return _set([(ops.NEGATE, None), (ops.LITERAL, value)])
        case ops.ANY:
            newline = [] if dot_all else [(ops.LITERAL, 10)]
            return _set([(ops.NEGATE, None), *newline])
        case ops.IN:
            return _set(value)
        case ops.MAX_REPEAT | ops.MIN_REPEAT:
            least, most, inner = value
            counts = {(0, ops.MAXREPEAT): "*", (1, ops.MAXREPEAT): "+", (0, 1): "?"}
            upper = "" if most == ops.MAXREPEAT else most
            count = counts.get((least, most), f"{{{least},{upper}}}")
            return f"({_sequence(inner, dot_all)}){count}"
        case ops.SUBPATTERN:
            return f"({_sequence(value[3], dot_all)})"
        case ops.BRANCH:
            return "(" + " | ".join(_sequence(x, dot_all) for x in value[1]) + ")"
        case ops.AT:
            return '""'
        case _:
            raise ValueError(f"{op} cannot be used in the grammar of an input")


def _set(items: list[tuple[Any, Any]]) -> str:
    """Returns an expression for one character of a set."""
    negated = bool(items) and items[0][0] is ops.NEGATE
    members = items[1:] if negated else items
    named = [_CLASSES[value] for op, value in members if op is ops.CATEGORY]
    ranges = [(x, x) for op, x in members if op is ops.LITERAL]
    ranges += [value for op, value in members if op is ops.RANGE]

    def has(character: str) -> bool:
        inside = any(low <= ord(character) <= high for low, high in ranges)
        return (inside or any(re.match(x, character) for x in named)) != negated

    escapes = [_literal(x) for x in _SPECIAL if has(x)]
    if negated or any(x in (r"\s", r"\S", r"\D", r"\W") for x in named):
        # Of a class that may hold escaped characters, those are taken out.
        own = "".join([*(f"{_point(low)}-{_point(high)}" for low, high in ranges), *named])
        outside = r'"\\\x00-\x1f'
        if negated:
            plain = [f"[^{own}{outside}]"]
        else:
            plain = [_without_escaped(ranges), *(_class(x, outside) for x in named)]
    else:
        plain = [_without_escaped(ranges, "".join(named))]
    return "(" + " | ".join([*(f"/{x}/" for x in plain if x), *escapes]) + ")"


def _class(name: str, outside: str) -> str:
    match name:
        case r"\s":
            return "[ ]"
        case r"\S" | r"\D" | r"\W":
            return f"[^{name.lower()}{outside}]"
        case _:
            return f"[{name}]"


def _without_escaped(ranges: list[tuple[int, int]], named: str = "") -> str:
    """A class of the ranges without the code points that JSON escapes."""
    left = list(ranges)
    for first, last in _OUTSIDE:
        left = [
            piece
            for low, high in left
            for piece in ((low, min(high, first - 1)), (max(low, last + 1), high))
            if piece[0] <= piece[1]
        ]
    pieces = "".join(f"{_point(low)}-{_point(min(high, _LAST))}" for low, high in left)
    return f"[{pieces}{named}]" if pieces or named else ""


def _point(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"


def _literal(text: str, flag: str = "") -> str:
    """Returns the JSON escapes of a text, a character at a time.

    Longer lexemes would hide what other rules allow in their place.
    """
    escaped = (json.dumps(x, ensure_ascii=False)[1:-1] for x in text)
    return " ".join(f"{json.dumps(x, ensure_ascii=False)}{flag}" for x in escaped) or '""'
