"""Writes tool calls in a model's notation, for templates that cannot render them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pomona_gateway.parsers.notation import (
    ID_SLOT,
    INDEX_SLOT,
    KEY_SLOT,
    NAME_SLOT,
    CallNotation,
)


def written_calls(notation: CallNotation, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Returns calls as a model with this notation writes them.

    Args:
        calls: name and arguments of each.
    """
    between = notation.between if notation.between is not None else "\n"
    written = [_call(notation, name, own, index) for index, (name, own) in enumerate(calls)]
    return f"{notation.opening}{between.join(written)}{notation.closing}"


def _call(notation: CallNotation, name: str, arguments: Mapping[str, Any], index: int) -> str:
    text = f"{notation.head}{name}{notation.middle}{_arguments(notation, arguments)}{notation.tail}"
    slots = {NAME_SLOT: name, INDEX_SLOT: str(index), ID_SLOT: f"call{index:05d}"}
    for slot, value in slots.items():
        text = text.replace(slot, value)
    return text


def _arguments(notation: CallNotation, arguments: Mapping[str, Any]) -> str:
    match notation.style:
        case "json" | "mlx_lm":
            return _json(arguments)
        case "keywords":
            return f"({', '.join(f'{key}={own!r}' for key, own in arguments.items())})"
        case "relaxed":
            return _relaxed(arguments, notation.string_mark)
        case "tagged":
            return "".join(_field(notation, key, own) for key, own in arguments.items())


def _relaxed(value: Any, mark: str) -> str:
    match value:
        case str():
            return f"{mark}{value}{mark}"
        case dict():
            members = [f"{key}:{_relaxed(own, mark)}" for key, own in value.items()]
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join(_relaxed(own, mark) for own in value) + "]"
        case _:
            return _json(value)


def _field(notation: CallNotation, key: str, value: Any) -> str:
    fields = notation.fields
    assert fields is not None
    bare = isinstance(value, str) and not fields.quoted
    middle = fields.middle if isinstance(value, str) else fields.other_middle or fields.middle
    after = fields.after.replace(KEY_SLOT, key)
    return f"{fields.before}{key}{middle}{value if bare else _json(value)}{after}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
