"""Turns at one thing, given to tenants in rotation."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class FairTurns:
    """A lock whose waiters are served tenant by tenant, each in order of arrival.

    However much one tenant wants, another waits for at most one of its turns.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def waiting(self, tenant: str) -> int:
        """Returns the number of a tenant's waiters."""
        return len(self._waiting.get(tenant, ()))

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncGenerator[None]:
        """Waits for a turn of the tenant, and holds it while the block runs."""
        if self._taken:
            given = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(tenant, deque()).append(given)
            try:
                await given
            except asyncio.CancelledError:
                if given.done() and not given.cancelled():
                    self._give(tenant)
                raise
        self._taken = True
        try:
            yield
        finally:
            self._give(tenant)

    def _give(self, last: str) -> None:
        """Gives the turn to the next tenant; that which had it goes to the end of the rotation."""
        self._taken = False
        if last in self._waiting:
            self._waiting.move_to_end(last)
        while self._waiting and not self._taken:
            tenant, waiters = self._waiting.popitem(last=False)
            given = waiters.popleft()
            if waiters:
                self._waiting[tenant] = waiters
            if not given.done():
                self._taken = True
                given.set_result(None)
