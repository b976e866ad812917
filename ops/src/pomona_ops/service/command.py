"""``pomona service``: installs, inspects and removes the services of this machine."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pomona_ops.options import Command, JsonOption, LogLevel, command_group

if TYPE_CHECKING:
    from pomona_ops.service.layout import Layout
    from pomona_ops.service.manager import UnitState

# Each command imports its modules itself, so that --help is fast.

app = command_group(help="Services of this machine under launchd or systemd.")
PREFIX = Path("/opt/pomona")
PrefixOption = Annotated[Path, typer.Option(help="Folder of the installed versions.")]
RootOption = Annotated[
    Path,
    typer.Option(
        envvar="POMONA_SERVICE_ROOT",
        show_envvar=True,
        help="Folder in place of /, for a trial.",
    ),
]
SystemOption = Annotated[
    str, typer.Option(help="launchd or systemd; default: that of this machine.")
]


@app.command(cls=Command)
def install(
    role: Annotated[
        str, typer.Option(help="head (all five services) or worker; default: as it has joined.")
    ] = "",
    user: Annotated[str, typer.Option(help="Service account, created if missing.")] = "_pomona",
    system: SystemOption = "",
    prefix: PrefixOption = PREFIX,
    root: RootOption = Path("/"),
    state: Annotated[
        Path | None,
        typer.Option(help="State folder whose keys are taken over; default: of the last `up`."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Install the services and start them, also after a reboot without a login. Run it again after
    changing the settings file. Exits 0 when all run, 1 when one does not."""
    from pomona_ops.cluster.processes import node_role
    from pomona_ops.cluster.started import find_port, find_state_dir
    from pomona_ops.service.install import InstallOptions, install

    folder = state or find_state_dir(find_port(None))
    options = InstallOptions(
        role or node_role(folder),
        _system(system),  # type: ignore[arg-type]  # checked there
        user,
        _layout(root, prefix),
        folder if folder.is_dir() else None,
        lambda text: print(f"==> {text}", file=sys.stderr),
    )
    found = _or_exit(lambda: install(options))
    _print_states(found, options.layout, as_json)
    if not as_json:
        print("`pomona doctor` checks this machine's settings", file=sys.stderr)


@app.command(cls=Command)
def uninstall(
    keep_data: Annotated[
        bool, typer.Option("--keep-data", help="Leave settings, state, keys and models.")
    ] = False,
    prefix: PrefixOption = PREFIX,
    root: RootOption = Path("/"),
) -> None:
    """Stop the services and remove everything that `install` made."""
    from pomona_ops.service.install import uninstall

    layout = _layout(root, prefix)
    _or_exit(
        lambda: uninstall(layout, keep_data, lambda text: print(f"==> {text}", file=sys.stderr))
    )
    print("no services of Pomona are installed")


@app.command(cls=Command)
def status(
    prefix: PrefixOption = PREFIX, root: RootOption = Path("/"), as_json: JsonOption = False
) -> None:
    """Show the services of this machine. Exits 0 when all run, 1 when one does not."""
    from pomona_ops.service.install import states

    layout = _layout(root, prefix)
    found: list[UnitState] = _or_exit(lambda: states(layout))
    _print_states(found, layout, as_json)
    raise typer.Exit(0 if all(state.pid for state in found) else 1)


@app.command(cls=Command)
def logs(
    service: Annotated[str, typer.Argument(help="Name of a service; default: all.")] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines until Ctrl-C.")
    ] = False,
    since: Annotated[str | None, typer.Option(help="An age (10m, 2h) or a time (14:05).")] = None,
    level: Annotated[LogLevel, typer.Option(help="Print these and worse ones.")] = "debug",
    prefix: PrefixOption = PREFIX,
    root: RootOption = Path("/"),
) -> None:
    """Print the logs of the installed services."""
    import time

    from pomona_ops.commands.logs import LogOptions, parse_since, show_logs

    begin = None if since is None else parse_since(since, time.time())
    folder = _layout(root, prefix).logs
    raise typer.Exit(show_logs(LogOptions(folder, service, follow, begin, level)))


@app.command(cls=Command)
def restart(
    service: Annotated[str, typer.Argument(help="Name of a service; default: all.")] = "",
    prefix: PrefixOption = PREFIX,
    root: RootOption = Path("/"),
    as_json: JsonOption = False,
) -> None:
    """Restart one service, or all one after the other."""
    from pomona_ops.service.install import restart

    layout = _layout(root, prefix)
    _print_states(_or_exit(lambda: restart(layout, service)), layout, as_json)


@app.command(cls=Command)
def rollback(
    prefix: PrefixOption = PREFIX, root: RootOption = Path("/"), as_json: JsonOption = False
) -> None:
    """Go back to the version that ran before the current one."""
    from pomona_ops.service.install import rollback

    layout = _layout(root, prefix)
    _, found = _or_exit(lambda: rollback(layout))
    _print_states(found, layout, as_json)


@app.command(cls=Command)
def render(
    role: Annotated[str, typer.Option(help="head (all five services) or worker.")],
    output: Annotated[Path, typer.Option(help="Folder to write the units to.")],
    user: Annotated[str, typer.Option(help="Service account.")] = "_pomona",
    settings: Annotated[Path, typer.Option(help="The settings file that the units name.")] = Path(
        "/usr/local/etc/pomona/pomona.toml"
    ),
    logs: Annotated[Path, typer.Option(help="Folder for logs.")] = Path(
        "/usr/local/var/log/pomona"
    ),
    python: Annotated[
        Path | None, typer.Option(help="Interpreter, if not that of PREFIX/current.")
    ] = None,
    system: Annotated[str, typer.Option(help="launchd or systemd.")] = "launchd",
    prefix: Annotated[Path, typer.Option(help="Folder of the installed versions.")] = Path(
        "/opt/pomona"
    ),
) -> None:
    """Write the launchd or systemd units of a node, and the rotation of their logs."""
    from pomona_ops.commands.service import (
        UnitOptions,
        gateway_address,
        installed_python,
        write_units,
    )

    python = python or installed_python(prefix)
    options = UnitOptions(user, python, settings, logs, *gateway_address(settings))
    for path in write_units(role, options, output, system):
        print(path)
    if not python.exists():
        print(
            f"note: {python} does not exist yet: `sudo ops/install_prefix.sh {prefix}` installs "
            "this version there",
            file=sys.stderr,
        )


def _layout(root: Path, prefix: Path) -> Layout:
    from pomona_ops.service.layout import Layout

    return Layout(root.absolute(), prefix)


def _system(given: str) -> str:
    from pomona import host

    return given or ("systemd" if host.is_linux() else "launchd")


def _or_exit(work: Any) -> Any:
    """Runs a command. Prints the reason when the system refuses it, and exits with 1."""
    from pomona_ops.service.manager import ServiceError

    try:
        return work()
    except (ServiceError, PermissionError) as error:
        print(f"pomona service: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def _print_states(found: list[UnitState], layout: Layout, as_json: bool) -> None:
    version = layout.version()
    if as_json:
        import orjson

        content = {"version": version, "services": [asdict(state) for state in found]}
        print(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
        return
    print(f"version {version or 'unknown'}")
    for state in found:
        print(f"{state.service:<16} {state.state:<12} {state.pid or ''}".rstrip())
