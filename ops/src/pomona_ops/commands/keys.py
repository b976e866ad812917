"""``pomona keys``: who may use a gateway that others can reach."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import orjson

from pomona.auth.api_keys import KeyLimits, KeyStore, Role
from pomona.auth.key_usage import UsageStore


def create_key(store: KeyStore, name: str, role: Role, limits: KeyLimits) -> None:
    """Print a new key; it is told only now. Raises ConfigurationError for a taken name."""
    print(store.create(name, role, limits))
    print(f"This is the only time it is shown; its hash is in {store.path}.", file=sys.stderr)


def list_keys(store: KeyStore, book: UsageStore, as_json: bool) -> None:
    """Print every key and what was used of it, without what would let one use it."""
    keys = store.list()
    if as_json:
        told = [
            {
                "name": key.name,
                "role": key.role,
                "created": key.created,
                "limits": key.limits,
                "usage": book.usage_of(key),
            }
            for key in keys
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
    for column in ("name", "role", "created", "limits", "requests", "tokens in/out", "last used"):
        table.add_column(column)
    for key in keys:
        usage = book.usage_of(key)
        table.add_row(
            key.name,
            key.role,
            _moment(key.created),
            _limits(key.limits),
            str(usage.requests),
            f"{usage.prompt_tokens}/{usage.reply_tokens}",
            _moment(usage.last) if usage.last else "never",
        )
    Console(highlight=False).print(table)


def _moment(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M}"


def _limits(limits: KeyLimits) -> str:
    named = {
        "requests/min": limits.requests,
        "tokens/min": limits.tokens,
        "at once": limits.concurrent,
        "% of the queue": limits.queue_share,
    }
    return ", ".join(f"{limit} {name}" for name, limit in named.items() if limit is not None)
