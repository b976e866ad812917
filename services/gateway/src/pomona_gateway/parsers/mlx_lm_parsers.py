"""Tool parsers of mlx-lm, for notations that can neither be derived nor are of a known family.

They are of whichever mlx-lm is installed beside the gateway, if any. Their modules are loaded from
their files: importing the package would import MLX.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

_PACKAGE = "_pomona_mlx_lm_tool_parsers"


@dataclass(frozen=True, slots=True)
class MlxLmParser:
    """One of mlx-lm's parsers.

    Attributes:
        start, end: marks around calls; an empty ``end`` stands for the end of the reply.
        parse: reads the text between the marks, with the tools in OpenAI's form. Returns a call
            or a list of calls, each with ``name`` and ``arguments``; raises anything.
    """

    name: str
    start: str
    end: str
    parse: Callable[[str, Any], Any]

    def calls(self, text: str, tools: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        """Returns the name and the arguments of each call; none when the text is no call."""
        try:
            found = self.parse(text, tools)
        except Exception:  # these parsers raise whatever they meet in a faulty call
            return []
        out: list[tuple[str, dict[str, Any]]] = []
        for call in cast("list[Any]", found if isinstance(found, list) else [found]):
            name, arguments = (call.get(key) for key in ("name", "arguments"))
            if not isinstance(name, str) or not isinstance(arguments, dict):
                return []
            out.append((name, cast("dict[str, Any]", arguments)))
        return out


@lru_cache(maxsize=32)
def mlx_lm_parser(name: str) -> MlxLmParser | None:
    """Returns the parser of this name; None when the installed mlx-lm has none."""
    folder = _folder()
    if folder is None:
        return None
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = [str(folder)]
        sys.modules[_PACKAGE] = package
    try:
        module = importlib.import_module(f"{_PACKAGE}.{name}")
        start, end = module.tool_call_start, module.tool_call_end
        return MlxLmParser(name, str(start), str(end or ""), module.parse_tool_call)
    except (ImportError, AttributeError):
        return None


def find_parser(template: str, turn: str, tools: list[dict[str, Any]], name: str) -> str:
    """Returns the name of the parser for a template's calls; empty for none.

    Args:
        template: the template's source.
        turn: a rendered turn that calls the tool ``name``; empty when the template renders none.
    """
    folder = _folder()
    names = sorted(x.stem for x in folder.glob("[a-z]*.py")) if folder is not None else []
    parsers = [parser for x in names if (parser := mlx_lm_parser(x)) is not None and parser.start]
    for parser in sorted(parsers, key=lambda x: -len(x.start)):
        _, found, rest = (turn or template).partition(parser.start)
        if not found:
            continue
        body = rest.partition(parser.end)[0] if parser.end else rest
        if not turn or [called for called, _ in parser.calls(body, tools)] == [name]:
            return parser.name
    return ""


def _folder() -> Path | None:
    spec = importlib.util.find_spec("mlx_lm")
    places = spec.submodule_search_locations if spec is not None else None
    folder = Path(next(iter(places))) / "tool_parsers" if places else None
    return folder if folder is not None and folder.is_dir() else None
