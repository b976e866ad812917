"""``pomona models``: lists, downloads, loads and unloads models."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pomona.errors import ConfigurationError, PomonaError
from pomona_ops.options import Command, JsonOption, KeyOption, PortOption, command_group

if TYPE_CHECKING:
    from pomona_ops.commands.models.gateway import GatewayClient

# Each command imports its modules itself, so that --help is fast.

app = command_group(help="List, download, load and unload models.")

ModelArgument = Annotated[
    str, typer.Argument(help="Hub id, folder of safetensors, GGUF file, or known name.")
]
_LOADED_AGAIN = (
    "The next request for it loads it again, unless the gateway runs with "
    "POMONA_GATEWAY_LOAD_ON_REQUEST=false."
)
WaitOption = Annotated[bool, typer.Option(help="Wait until it is done.")]


command = partial(app.command, cls=Command)


@command("list")
def list_models(port: PortOption = None, key: KeyOption = "", json: JsonOption = False) -> None:
    """List models of the cluster, on this machine, and known by name."""
    from rich.console import Console

    from pomona_ops.commands.models.known import known_models

    found = known_models(_client(port, key))
    if json:
        _print_json(found)
        return
    from rich.table import Table

    table = Table("model", "where", "state", box=None, header_style="bold")
    for entry in found:
        table.add_row(entry["name"], entry["where"], entry["state"])
    Console(highlight=False).print(table)


@command()
def show(model: ModelArgument, json: JsonOption = False) -> None:
    """Show the facts of a model, which are known without its weights."""
    from rich.console import Console

    from pomona_ops.commands.models.show import facts_as_json, facts_of, print_facts

    facts = _or_exit(lambda: facts_of(model))
    if json:
        _print_json(facts_as_json(facts))
    else:
        print_facts(facts, Console(highlight=False))


@command()
def pull(model: ModelArgument, json: JsonOption = False) -> None:
    """Download all of a model to this machine; other nodes then copy from it."""
    from rich.console import Console

    from pomona_ops.commands.models.pull import pull_model

    result = _or_exit(lambda: pull_model(model, Console(stderr=True), quiet=json))
    if json:
        _print_json(result)
    else:
        print(f"{model} is in {result['path']} ({result['bytes'] / 1e9:.2f} GB)")


@command()
def load(
    model: ModelArgument,
    port: PortOption = None,
    key: KeyOption = "",
    wait: WaitOption = True,
    json: JsonOption = False,
) -> None:
    """Load a model into the cluster."""
    from rich.console import Console

    client = _client(port, key)
    result = _or_exit(lambda: client.load(model, wait, Console(stderr=True)))
    _print_state(result, json)


@command()
def unload(
    model: ModelArgument,
    port: PortOption = None,
    key: KeyOption = "",
    wait: WaitOption = True,
    json: JsonOption = False,
) -> None:
    """Unload a model from the cluster; the next request for it loads it again."""
    client = _client(port, key)
    result = _or_exit(lambda: client.unload(model, wait))
    _print_state(result, json)
    if not json:
        print(_LOADED_AGAIN, file=sys.stderr)


def _client(port: int | None, key: str) -> GatewayClient:
    from pomona_ops.cluster.started import find_port
    from pomona_ops.commands.models.gateway import GatewayClient

    return GatewayClient(find_port(port), key)


def _or_exit(work: Any) -> Any:
    from rich.console import Console

    try:
        return work()
    except ConfigurationError as error:
        Console(stderr=True, highlight=False).print(f"pomona models: {error}", style="red")
        raise typer.Exit(2) from error
    except PomonaError as error:
        Console(stderr=True, highlight=False).print(f"pomona models: {error}", style="red")
        raise typer.Exit(1) from error


def _print_state(result: dict[str, Any], json: bool) -> None:
    if json:
        _print_json(result)
    else:
        print(f"{result['id']} is {result['state']}")


def _print_json(content: Any) -> None:
    import orjson

    sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
