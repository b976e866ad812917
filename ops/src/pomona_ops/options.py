"""Options that all commands of ``pomona`` share: ``--help``, ``-h``, ``--json`` and ``--port``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final, Literal

import typer
from typer.core import TyperCommand, TyperGroup

HELP_NAMES: Final = {"help_option_names": ["-h", "--help"]}


def _without_types(parameters: list[Any]) -> list[Any]:
    """Removes the type of a flag, which takes no value, from its line in ``--help``."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters


class Command(TyperCommand):
    """A command whose ``--help`` shows flags without a type."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class CommandGroup(TyperGroup):
    """A group of commands whose ``--help`` shows flags without a type."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


command_group = partial(
    typer.Typer,
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    context_settings=HELP_NAMES,
    pretty_exceptions_enable=False,
)
"""Makes a group of commands, each declared with ``cls=Command``."""

KeyOption = Annotated[
    str, typer.Option(envvar="POMONA_API_KEY", help="An administrator's key.", show_envvar=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--port",
        envvar="POMONA_PORT",
        show_envvar=True,
        show_default=False,
        metavar="<port>",
        help="First port of the cluster; default: the last that `up` started.",
    ),
]
LogLevel = Literal["debug", "info", "warning", "error"]
