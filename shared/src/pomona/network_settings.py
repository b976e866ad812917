"""Settings that ``pomona invite`` and ``pomona join`` leave in a node's state folder.

They are the weakest source: variables and the settings file take precedence. The file is TOML like
the settings file, ``network.toml``, so that people can read and change it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pomona.errors import ConfigurationError
from pomona.private_files import write_privately

FILE: Final = "network.toml"

Value = str | int | bool | list[str]
Table = Mapping[str, Value]


def read_network(state_dir: Path) -> dict[str, Any]:
    """Returns the whole file; empty without one. Raises ConfigurationError when it is damaged."""
    path = state_dir / FILE
    try:
        return tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error}; correct it, or delete it and run `pomona join` or "
            "`pomona invite` again"
        ) from error


def network_settings(state_dir: Path, section: str) -> dict[str, Any]:
    """Returns the settings of one service: those of all, then those of its table."""
    content = read_network(state_dir)
    common = {key: value for key, value in content.items() if not isinstance(value, dict)}
    own = content.get(section, {})
    return {**common, **(own if isinstance(own, dict) else {})}


def write_network(state_dir: Path, common: Table, sections: Mapping[str, Table]) -> None:
    """Replaces the file. Raises ConfigurationError."""
    tables = ["".join(_line(*item) for item in common.items())]
    tables += [
        f"[{name}]\n" + "".join(_line(*item) for item in table.items())
        for name, table in sections.items()
    ]
    text = "# Written by `pomona invite` or `pomona join`.\n" + "\n".join(tables)
    try:
        write_privately(state_dir / FILE, text.encode())
    except OSError as error:
        raise ConfigurationError(
            f"{state_dir / FILE} cannot be written: {error.strerror}; run the command as the user "
            "of the services"
        ) from error


def _line(name: str, value: Value) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's too.
    return f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
