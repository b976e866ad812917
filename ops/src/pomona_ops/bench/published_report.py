"""Predictions beside published speeds, as the result of ``pomona bench plan --published``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pomona_ops.bench.clusters import BenchError
from pomona_ops.bench.numbers import median
from pomona_ops.bench.published import Comparable, read_rows, separate
from pomona_ops.bench.published_fit import cross_validation_errors, fit


def packaged_file() -> Path:
    """Returns the file of published speeds that the decode times were fitted to."""
    return Path(str(files("pomona_ops.bench") / "data" / "published_speeds.tsv"))


def compare_published(path: Path, with_fit: bool = False) -> dict[str, Any]:
    """Compares predictions with the speeds of a file.

    Errors are fractions, predicted over measured minus one; ``median_error`` and ``worst_error``
    are without sign.

    Args:
        with_fit: also fit the decode times to the rows without tensor groups and validate that
            fit, which takes minutes.

    Raises:
        BenchError: when the file is not valid or has no row that can be compared.
    """
    compared, left_out = separate(read_rows(path))
    if not compared:
        reasons = "; ".join(sorted({reason for _, reason in left_out}))
        raise BenchError(f"{path} has no row that can be compared: {reasons or 'it is empty'}")
    groups = [row.error() for row in compared if row.collective is not None]
    result = {
        **_summary([row.error() for row in compared]),
        "tensor_groups": _summary(groups) if groups else None,
        "rows": [_entry(row) for row in compared],
        "not_compared": [asdict(row) | {"reason": reason} for row, reason in left_out],
    }
    if with_fit:
        compared = [row for row in compared if row.collective is None]
        fitted = fit(compared)
        result["fit"] = {
            "decode_times": {name: round(value, 3) for name, value in asdict(fitted).items()},
            "in_sample": _summary([row.error(fitted) for row in compared]),
            "model_left_out": _summary(cross_validation_errors(compared, fitted)),
        }
    return result


def print_published(result: dict[str, Any]) -> None:
    console = Console()
    table = Table("model", "quantization", "machines", "engine", "context")
    for name in ("measured", "predicted", "error"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        names = [row[name] for name in ("model", "quant", "machines", "engine", "context")]
        speeds = [f"{row[name]:.1f}" for name in ("measured", "predicted")]
        table.add_row(*names, *speeds, f"{row['error']:+.1%}")
    console.print(table)
    for row in result["not_compared"]:
        text = f"not compared: {row['model']}, {row['quant']}, {row['machines']}: {row['reason']}"
        console.print(text, markup=False, highlight=False)
    _print_errors(console, "compared", result)
    if result["tensor_groups"] is not None:
        _print_errors(console, "of these, tensor groups", result["tensor_groups"])
    if "fit" in result:
        for name, value in result["fit"]["decode_times"].items():
            console.print(f"{name} = {value}", highlight=False)
        _print_errors(console, "fitted", result["fit"]["in_sample"])
        _print_errors(console, "each model left out", result["fit"]["model_left_out"])


def _print_errors(console: Console, name: str, errors: dict[str, Any]) -> None:
    console.print(
        f"{name}: {errors['compared']} rows, median error {errors['median_error']:.1%}, "
        f"worst {errors['worst_error']:.1%}",
        highlight=False,
    )


def _summary(errors: Sequence[float]) -> dict[str, Any]:
    sizes = [abs(error) for error in errors]
    return {"compared": len(sizes), "median_error": median(sizes), "worst_error": max(sizes)}


def _entry(row: Comparable) -> dict[str, Any]:
    return asdict(row.row) | {
        "known_as": row.facts.name,
        "cached_tokens": row.cached,
        "measured": row.measured,
        "predicted": row.predict(),
        "error": row.error(),
    }
