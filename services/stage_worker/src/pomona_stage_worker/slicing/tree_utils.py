"""Walks and edits nested arguments of layers, and containers of modules."""

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

# Key of an argument (an index or a keyword), then the keys inside it.
Path = tuple[int | str, ...]


def is_record(value: object) -> bool:
    """Returns whether `value` is a plain object that holds arrays as attributes (kimi_k3)."""
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, nn.Module | type)
        and not callable(value)
    )


def leaves(
    value: Any, opaque: Callable[[object], bool], path: Path = ()
) -> Iterator[tuple[Path, mx.array]]:
    """Yields every array inside `value` with its path; does not enter `opaque` objects."""
    if isinstance(value, mx.array):
        yield path, value
    elif value is None or isinstance(value, str | int | float | bool) or opaque(value):
        return
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from leaves(item, opaque, (*path, index))
    elif isinstance(value, nn.Module):
        return
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, opaque, (*path, key))
    elif is_record(value):
        for key, item in vars(value).items():
            yield from leaves(item, opaque, (*path, key))


def lookup(value: Any, path: Path) -> Any:
    """Returns the value at `path` in `value`, or None when the path does not exist."""
    for key in path:
        if value is None:
            return None
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, tuple | list):
            value = value[key] if isinstance(key, int) and key < len(value) else None
        else:
            value = getattr(value, str(key), None)
    return value


def replaced(value: Any, path: Path, leaf: mx.array) -> Any:
    """Returns `value` with `leaf` at `path`.

    Tuples and lists are rebuilt, and a missing container becomes a tuple. Dictionaries and plain
    objects, which layers share, are changed in place.
    """
    if not path:
        return leaf
    key, rest = path[0], path[1:]
    if value is None or isinstance(value, tuple):
        known: tuple[Any, ...] = () if value is None else value
        value = known + (None,) * (int(key) + 1 - len(known))
    if isinstance(value, tuple | list):
        items = list(value)
        items[int(key)] = replaced(items[int(key)], rest, leaf)
        return type(value)(items)
    if isinstance(value, dict):
        value[key] = replaced(value.get(key), rest, leaf)
    else:
        setattr(value, str(key), replaced(getattr(value, str(key), None), rest, leaf))
    return value


def modules_in(value: Any, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yields every module below `value` with its dotted name; a shared module once per name."""
    if isinstance(value, nn.Module):
        yield name, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from modules_in(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from modules_in(item, f"{name}.{index}" if name else str(index))


def arrays_of(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields (key, dotted name) of the parameters a module holds outside of submodules."""
    for key, value in module.items():
        if not key.startswith("_"):
            for name in _array_names(value, key):
                yield key, name


def _array_names(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, mx.array):
        yield name
    elif isinstance(value, nn.Module):
        return
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _array_names(item, f"{name}.{key}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _array_names(item, f"{name}.{index}")


def substituted(value: Any, proxies: dict[int, Any]) -> Any:
    """Copies a container of layers with some replaced, by id."""
    if id(value) in proxies:
        return proxies[id(value)]
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, tuple | list):
        return type(value)(substituted(item, proxies) for item in value)
    if isinstance(value, dict):
        return {key: substituted(item, proxies) for key, item in value.items()}
    return value


def holds(value: Any, ids: set[int]) -> bool:
    """Returns whether a container holds an object of `ids`; does not enter modules."""
    if id(value) in ids:
        return True
    if isinstance(value, nn.Module):
        return False
    if isinstance(value, tuple | list):
        return any(holds(item, ids) for item in value)
    if isinstance(value, dict):
        return any(holds(item, ids) for item in value.values())
    return False
