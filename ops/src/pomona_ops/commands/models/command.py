"""``pomona models``: see, fetch, load and unload models."""

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
from pomona_ops.commands.models.show import described, facts_of, print_facts

app = typer.Typer(
    help="See, fetch, load and unload models.", no_args_is_help=True, add_completion=False
)

ModelArgument = Annotated[
    str, typer.Argument(help="Hub id, folder of safetensors, GGUF file, or a known name.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]
PortOption = Annotated[int, typer.Option("--port", help="First port of the cluster.")]
KeyOption = Annotated[
    str, typer.Option(envvar="POMONA_API_KEY", help="An administrator's key.", show_envvar=True)
]
WaitOption = Annotated[bool, typer.Option(help="Until it is done.")]


@app.command("list")
def list_models(
    port: PortOption = DEFAULT_PORT, key: KeyOption = "", json: JsonOption = False
) -> None:
    """Models of the cluster, copies on this machine, and those known from data."""
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
    """What is known of a model without its weights."""
    facts = _or_exit(lambda: facts_of(model))
    if json:
        _print_json(described(facts))
    else:
        print_facts(facts, Console(highlight=False))


@app.command()
def pull(model: ModelArgument, json: JsonOption = False) -> None:
    """Fetch all of a model to this machine; its peers take from here what they need."""
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
    """Have the cluster load a model."""
    client = GatewayClient(port, key)
    result = _or_exit(lambda: client.load(model, wait, Console(stderr=True)))
    _say(result, json)


@app.command()
def unload(
    model: ModelArgument,
    port: PortOption = DEFAULT_PORT,
    key: KeyOption = "",
    wait: WaitOption = True,
    json: JsonOption = False,
) -> None:
    """Have the cluster unload a model."""
    client = GatewayClient(port, key)
    result = _or_exit(lambda: client.unload(model, wait))
    _say(result, json)


def _or_exit(work: Any) -> Any:
    try:
        return work()
    except ConfigurationError as error:
        Console(stderr=True, highlight=False).print(f"pomona models: {error}", style="red")
        raise typer.Exit(2) from error
    except PomonaError as error:
        Console(stderr=True, highlight=False).print(f"pomona models: {error}", style="red")
        raise typer.Exit(1) from error


def _say(result: dict[str, Any], json: bool) -> None:
    if json:
        _print_json(result)
    else:
        print(f"{result['id']} is {result['state']}")


def _print_json(content: Any) -> None:
    sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
