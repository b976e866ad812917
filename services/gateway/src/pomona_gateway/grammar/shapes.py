"""Shapes that a client may require of a reply's text.

``where`` is the request parameter that holds the shape, for error messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class JsonShape:
    """A JSON value that matches a JSON Schema (draft 2020-12).

    ``lenient``: ignore keywords that a grammar cannot express, rather than reject them.
    """

    schema: Mapping[str, Any]
    where: str
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class RegexShape:
    """A text that a regular expression matches as a whole."""

    pattern: str
    where: str


@dataclass(frozen=True, slots=True)
class ChoiceShape:
    """One of several texts."""

    texts: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class GrammarShape:
    """A text that a grammar matches as a whole, in llguidance's Lark or in GBNF."""

    source: str
    where: str


Shape: TypeAlias = JsonShape | RegexShape | ChoiceShape | GrammarShape
