"""``pomona keys``: who may use a gateway that others can reach."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import orjson

from pomona.keys import KeyLimits, KeyStore, Role


def create_key(store: KeyStore, name: str, role: Role, limits: KeyLimits) -> None:
    """Print a new key; it is told only now. Raises ConfigurationError for a taken name."""
    print(store.create(name, role, limits))
    print(f"This is the only time it is shown; its hash is in {store.path}.", file=sys.stderr)


def list_keys(store: KeyStore, as_json: bool) -> None:
    """Print every key without what would let one use it."""
    keys = store.list()
    if as_json:
        told = [
            {"name": k.name, "role": k.role, "created": k.created, "limits": k.limits} for k in keys
        ]
        sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    if not keys:
        print(f"No keys in {store.path}.")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("name", "role", "created", "requests/min", "tokens/min", "at once"):
        table.add_column(column)
    for key in keys:
        limits = (key.limits.requests, key.limits.tokens, key.limits.concurrent)
        table.add_row(
            key.name,
            key.role,
            f"{datetime.fromtimestamp(key.created, UTC):%Y-%m-%d %H:%M}",
            *("" if limit is None else str(limit) for limit in limits),
        )
    Console(highlight=False).print(table)
