"""``pomona keys``: the API keys of a gateway."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import orjson

from pomona.auth.api_keys import KeyLimits, KeyStore, Role
from pomona.auth.key_usage import UsageStore


def create_key(store: KeyStore, name: str, role: Role, limits: KeyLimits) -> None:
    """Creates a key and prints it, this once. Raises ConfigurationError for a taken name."""
    print(store.create(name, role, limits))
    print(f"The key is shown only now; its hash is in {store.path}.", file=sys.stderr)


def revoke_key(store: KeyStore, name: str) -> None:
    """Revokes a key and says so. Raises ConfigurationError for an unknown name."""
    store.revoke(name)
    print(f"key {name} is revoked: requests with it are refused from now on")


def list_keys(store: KeyStore, book: UsageStore, as_json: bool) -> None:
    """Prints name, role, limits and usage of every key, never the key or its hash."""
    keys = store.list()
    if as_json:
        entries = [
            {
                "id": key.id,
                "name": key.name,
                "role": key.role,
                "created": key.created,
                "limits": key.limits,
                "usage": book.usage_of(key),
            }
            for key in keys
        ]
        sys.stdout.write(orjson.dumps(entries, option=orjson.OPT_INDENT_2).decode() + "\n")
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
            _time(key.created),
            _limits(key.limits),
            str(usage.requests),
            f"{usage.prompt_tokens}/{usage.reply_tokens}",
            _time(usage.last) if usage.last else "never",
        )
    Console(highlight=False).print(table)


def _time(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M}"


def _limits(limits: KeyLimits) -> str:
    named = {
        "requests/min": limits.requests,
        "tokens/min": limits.tokens,
        "at once": limits.concurrent,
        "% of the queue": limits.queue_share,
    }
    return ", ".join(f"{limit} {name}" for name, limit in named.items() if limit is not None)
