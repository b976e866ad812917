"""``pomona models``: lists, downloads, loads and unloads models."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from pomona.errors import ConfigurationError, PomonaError
from pomona.settings import DEFAULT_PORT
from pomona_ops.commands.models.gateway import GatewayClient
from pomona_ops.commands.models.known import known_models
from pomona_ops.commands.models.show import facts_as_json, facts_of, print_facts

app = typer.Typer(
    help="List, download, load and unload models.", no_args_is_help=True, add_completion=False
)

ModelArgument = Annotated[
    str, typer.Argument(help="Hub id, folder of safetensors, GGUF file, or known name.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PortOption = Annotated[int, typer.Option("--port", help="First port of the cluster.")]
KeyOption = Annotated[
    str, typer.Option(envvar="POMONA_API_KEY", help="An administrator's key.", show_envvar=True)
]
WaitOption = Annotated[bool, typer.Option(help="Wait until it is done.")]


@app.command("list")
def list_models(
    port: PortOption = DEFAULT_PORT, key: KeyOption = "", json: JsonOption = False
) -> None:
    """List models of the cluster, on this machine, and known by name."""
    found = known_models(GatewayClient(port, key))
    if json:
        _print_json(found)
        return
    from rich.table import Table

    table = Table("model", "where", "state", box=None, header_style="bold")
    for entry in found:
        table.add_row(entry["name"], entry["where"], entry["state"])
    Console(highlight=False).print(table)


@app.command()
def show(model: ModelArgument, json: JsonOption = False) -> None:
    """Show the facts of a model, which are known without its weights."""
    facts = _or_exit(lambda: facts_of(model))
    if json:
        _print_json(facts_as_json(facts))
    else:
        print_facts(facts, Console(highlight=False))


@app.command()
def pull(model: ModelArgument, json: JsonOption = False) -> None:
    """Download all of a model to this machine; other nodes then copy from it."""
    from pomona_ops.commands.models.pull import pull_model

    result = _or_exit(lambda: pull_model(model, Console(stderr=True), quiet=json))
    if json:
        _print_json(result)
    else:
        print(f"{model} is in {result['path']} ({result['bytes'] / 1e9:.2f} GB)")


@app.command()
def load(
    model: ModelArgument,
    port: PortOption = DEFAULT_PORT,
    key: KeyOption = "",
    wait: WaitOption = True,
    json: JsonOption = False,
) -> None:
    """Load a model into the cluster."""
    client = GatewayClient(port, key)
    result = _or_exit(lambda: client.load(model, wait, Console(stderr=True)))
    _print_state(result, json)


@app.command()
def unload(
    model: ModelArgument,
    port: PortOption = DEFAULT_PORT,
    key: KeyOption = "",
    wait: WaitOption = True,
    json: JsonOption = False,
) -> None:
    """Unload a model from the cluster."""
    client = GatewayClient(port, key)
    result = _or_exit(lambda: client.unload(model, wait))
    _print_state(result, json)


def _or_exit(work: Any) -> Any:
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
    sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
