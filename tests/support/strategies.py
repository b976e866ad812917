"""Hypothesis strategies for messages, derived from their types and limits."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, Union

import annotated_types
from hypothesis import strategies as st
from pydantic import StringConstraints
from pydantic.fields import FieldInfo


def messages(kind: Any) -> st.SearchStrategy[Any]:
    """Returns a strategy for all valid values of a message type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = {field.name: messages(hints[field.name]) for field in dataclasses.fields(kind)}
        return st.builds(typing.cast("type[Any]", kind), **fields)
    if origin is typing.Annotated:
        return _limited(arguments[0], list(arguments[1:]))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([messages(argument) for argument in arguments])
    if origin is tuple:
        return _tuples(arguments, 0, 4)
    if origin is dict:
        return st.dictionaries(messages(arguments[0]), messages(arguments[1]), max_size=4)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=40),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        types.NoneType: st.none(),
    }
    return plain[kind]


def _tuples(arguments: tuple[Any, ...], least: int, most: int) -> st.SearchStrategy[Any]:
    if arguments[-1] is not Ellipsis:
        return st.tuples(*[messages(argument) for argument in arguments])
    return st.lists(messages(arguments[0]), min_size=least, max_size=min(most, 4)).map(tuple)


def _limited(kind: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    limits: dict[str, Any] = {}
    for item in metadata:
        if isinstance(item, FieldInfo):
            parts = item.metadata
        elif isinstance(item, StringConstraints):
            parts = [item]
        else:
            raise TypeError(f"no strategy for {item}")
        for part in parts:
            if isinstance(part, StringConstraints):
                limits |= {"pattern": part.pattern, "most": part.max_length}
                limits["least"] = part.min_length
            elif isinstance(part, annotated_types.Ge):
                limits["ge"] = part.ge
            elif isinstance(part, annotated_types.Gt):
                limits["gt"] = part.gt
            elif isinstance(part, annotated_types.Le):
                limits["le"] = part.le
            elif isinstance(part, annotated_types.MaxLen):
                limits["most"] = part.max_length
            elif isinstance(part, annotated_types.MinLen):
                limits["least"] = part.min_length
    return _with_limits(kind, limits)


def _with_limits(kind: Any, limits: dict[str, Any]) -> st.SearchStrategy[Any]:
    least, most = limits.get("least") or 0, limits.get("most")
    if kind is str and limits.get("pattern"):
        return st.from_regex(limits["pattern"].replace("$", r"\Z"))
    if kind is str:
        return st.text(min_size=least, max_size=min(most or 40, 40))
    if kind is int:
        return st.integers(limits.get("ge"), limits.get("le"))
    if kind is float:
        return st.floats(
            limits.get("gt", limits.get("ge")),
            limits.get("le"),
            exclude_min="gt" in limits,
            allow_nan=False,
            allow_infinity=False,
        )
    if typing.get_origin(kind) is tuple:
        return _tuples(typing.get_args(kind), least, most or 4)
    return messages(kind)
