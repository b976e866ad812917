"""Finds the model that a client means by a name. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

LATEST = ":latest"
"""Ollama's tag, which its clients append to names without a tag."""


def find_name(name: str, sources: Mapping[str, str], aliases: Mapping[str, str]) -> str | None:
    """Returns the name of the model that is meant; None when there is none.

    An exact name comes first, then a model's source, then a name that differs in case or by
    ``:latest`` only, then the first alias that matches.

    Args:
        sources: the source of each model, by the model's name.
        aliases: names of models by pattern, like ``claude-*``; case does not matter.
    """
    return _known(name, sources) or _known(aliased(name, aliases), sources)


def aliased(name: str, aliases: Mapping[str, str]) -> str:
    """Returns the name that stands for an alias; the same name if it is none."""
    plain = _plain(name)
    for pattern, target in aliases.items():
        if fnmatchcase(plain, _plain(pattern)):
            return target
    return name


def _known(name: str, sources: Mapping[str, str]) -> str | None:
    if name in sources:
        return name
    by_source = (known for known, source in sources.items() if source == name)
    return next(by_source, None) or _equal(name, sources)


def _equal(name: str, names: Iterable[str]) -> str | None:
    plain = _plain(name)
    return next((known for known in names if _plain(known) == plain), None)


def _plain(name: str) -> str:
    return name.lower().removesuffix(LATEST)
