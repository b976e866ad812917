"""Notices changes of this machine's addresses. A Mac may start before its network does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pomona.messages.discovery import Interface

ADDRESS_INTERVAL_S: Final = 2.0

Interfaces = tuple[Interface, ...]


async def follow_addresses(
    known: Interfaces,
    look: Callable[[], Interfaces],
    on_change: Callable[[], Awaitable[None]],
    interval_s: float = ADDRESS_INTERVAL_S,
) -> None:
    """Looks at the addresses every ``interval_s`` seconds until cancelled.

    Args:
        known: interfaces that were announced before.
        look: reads the interfaces, in a thread.
        on_change: called when an address appeared, disappeared or moved to another interface.
    """
    before = _addresses(known)
    while True:
        now = _addresses(await asyncio.to_thread(look))
        if now != before:
            before = now
            await on_change()
        await asyncio.sleep(interval_s)


def _addresses(found: Interfaces) -> set[tuple[str, str]]:
    return {(interface.name, interface.address) for interface in found}
