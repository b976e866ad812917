"""What a client may ask of a reply's text. ``where`` names the parameter, for refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class JsonShape:
    """A JSON value that matches a JSON Schema (draft 2020-12).

    ``lenient``: keywords that no grammar can express are passed over, not refused.
    """

    schema: Mapping[str, Any]
    where: str
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class RegexShape:
    """A text that a regular expression matches from its begin to its end."""

    pattern: str
    where: str


@dataclass(frozen=True, slots=True)
class ChoiceShape:
    """One of some texts."""

    texts: tuple[str, ...]
    where: str


Shape: TypeAlias = JsonShape | RegexShape | ChoiceShape
