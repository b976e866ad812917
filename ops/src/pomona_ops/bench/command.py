"""``pomona bench``: measurements, each as a ratio within one run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from pomona.errors import PomonaError
from pomona.models import EMBEDDED_MODEL
from pomona_ops.bench.concurrency import measure_emulated, measure_real, run_engine
from pomona_ops.bench.decode import run_decode
from pomona_ops.bench.group import run_group
from pomona_ops.bench.prediction import run_plan
from pomona_ops.bench.published_report import (
    compare_published,
    packaged_file,
    print_published,
)
from pomona_ops.bench.speculation import run_speculation
from pomona_ops.bench.start import run_start
from pomona_ops.bench.streams import run_streams
from pomona_ops.bench.structured import run_structured
from pomona_ops.bench.trace import run_trace
from pomona_ops.options import Command, command_group

app = command_group(help="Measure a cluster that the command starts and stops.")
command = partial(app.command, cls=Command)

ModelOption = Annotated[str, typer.Option(help="Model to measure with.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()
def main() -> None:
    """Measure a cluster that the command starts and stops."""


@command()
def decode(
    model: ModelOption = EMBEDDED_MODEL,
    stages: Annotated[int, typer.Option(help="Stages of the pipeline.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each side.")] = 5,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens per round.")] = 64,
    stock_kernels: Annotated[
        bool,
        typer.Option("--stock-kernels", help="Stages use MLX's own CPU kernels."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """One user against mlx-lm, and the cost of a hop."""
    _report(run_decode(model, stages, rounds, tokens, stock_kernels), as_json)


@command()
def engine(
    model: ModelOption = EMBEDDED_MODEL,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each measurement.")] = 3,
    part: Annotated[str, typer.Option(help="all, real or emulated.")] = "all",
    as_json: JsonOption = False,
) -> None:
    """Concurrent users, long prompts, second turns; and emulated stages for the transport alone."""
    measurements = {"all": run_engine, "real": measure_real, "emulated": measure_emulated}
    if part not in measurements:
        raise typer.BadParameter(f"{part!r} is not a valid part: choose {', '.join(measurements)}")
    _report(measurements[part](model, rounds), as_json)


@command()
def group(
    ranks: Annotated[
        list[int] | None, typer.Option(min=2, max=4, help="Ranks, repeatable; default: 2, 3, 4.")
    ] = None,
    steps: Annotated[int, typer.Option(min=8, help="Decode steps of each round.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each side.")] = 5,
    hold_ms: Annotated[float, typer.Option(min=0, max=1000, help="Time of a step.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Cost of a tensor group in a step beside its collectives, with emulated ranks."""
    _report(run_group(tuple(ranks or (2, 3, 4)), steps, rounds, hold_ms), as_json)


@command()
def plan(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to predict and measure, repeatable; random-... is generated."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Argument(help="With --published: a TSV file of speeds; default: the packaged one."),
    ] = None,
    turns: Annotated[int, typer.Option(min=1, help="Rounds, each calibrated by itself.")] = 4,
    published: Annotated[
        bool, typer.Option("--published", help="Compare with published speeds; measure nothing.")
    ] = False,
    fit: Annotated[
        bool, typer.Option("--fit", help="With --published: fit the decode times to the file.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Solve times of the planner, and its predictions against measurements."""
    if published:
        _report_published(file or packaged_file(), fit, as_json)
        return
    if file is not None or fit:
        raise typer.BadParameter("a file and --fit need --published")
    models = model or [EMBEDDED_MODEL, "random-qwen3", "random-mixtral", "random-gemma3"]
    _report(run_plan(models, turns), as_json)


@command()
def speculation(
    model: ModelOption = EMBEDDED_MODEL,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of measurements of each row.")] = 3,
    part: Annotated[str, typer.Option(help="all, real, draft or emulated.")] = "all",
    as_json: JsonOption = False,
) -> None:
    """Guessed tokens in idle stages against plain decoding, in the same pipeline."""
    if part not in ("all", "real", "draft", "emulated"):
        raise typer.BadParameter(
            f"{part!r} is not a valid part: choose all, real, draft or emulated"
        )
    _report(run_speculation(model, rounds, part), as_json)


@command()
def start(
    model: ModelOption = EMBEDDED_MODEL,
    stages: Annotated[int, typer.Option(min=1, help="Stages of the pipeline.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Starts after the first.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Time from the start of a stage worker's process until its stage is ready, files present."""
    _report(run_start(model, stages, rounds), as_json)


@command()
def streams(
    model: ModelOption = EMBEDDED_MODEL,
    minutes: Annotated[float, typer.Option(min=0.5, help="Duration in minutes.")] = 10.0,
    count: Annotated[int, typer.Option(min=1, help="Concurrent streams.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Many streams through the gateway over emulated stages, and the memory of the services."""
    _report(run_streams(model, minutes, count), as_json)


@command()
def structured(
    model: ModelOption = EMBEDDED_MODEL,
    stages: Annotated[int, typer.Option(help="Stages of the pipeline.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each side.")] = 5,
    tokens: Annotated[int, typer.Option(min=8, max=400, help="Tokens per reply.")] = 128,
    as_json: JsonOption = False,
) -> None:
    """Four users whose replies must match a JSON Schema, against the same users without."""
    _report(run_structured(model, stages, rounds, tokens), as_json)


@command()
def trace(
    model: ModelOption = EMBEDDED_MODEL,
    stages: Annotated[int, typer.Option(help="Stages of the pipeline.")] = 2,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens to trace.")] = 96,
    hold_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Trace emulated stages that hold each step this long."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Split the time of one token into compute and hops."""
    _report(run_trace(model, stages, tokens, hold_ms), as_json)


def _report_published(file: Path, fit: bool, as_json: bool) -> None:
    try:
        result = compare_published(file, fit)
    except PomonaError as error:
        Console(stderr=True).print(f"pomona bench: {error}", style="red")
        raise typer.Exit(1) from error
    if as_json:
        _print_json(result)
    else:
        print_published(result)


def _print_json(result: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode() + "\n")


def _report(measuring: Coroutine[Any, Any, dict[str, Any]], as_json: bool) -> None:
    """Runs a measurement and prints its results as tables or as JSON."""
    errors = Console(stderr=True)
    try:
        if as_json:
            results = asyncio.run(measuring)
        else:
            with errors.status("measuring; other load on this machine distorts the results"):
                results = asyncio.run(measuring)
    except PomonaError as error:
        errors.print(f"pomona bench: {error}", style="red")
        raise typer.Exit(1) from error
    if as_json:
        _print_json(results)
        return
    for name, values in results.items():
        table = Table("measure", "value", title=name, title_justify="left")
        for key, value in values.items():
            table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
        Console().print(table)
