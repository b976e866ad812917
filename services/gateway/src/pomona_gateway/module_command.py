"""Command lines of the gateway's child processes."""

from __future__ import annotations

import sys


def module_command(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module of this package.

    The package imports such a module too, of which runpy would warn in the gateway's log.
    """
    ignored = "ignore::RuntimeWarning:runpy"
    return [sys.executable, "-I", "-W", ignored, "-m", f"pomona_gateway.{module}", *arguments]
