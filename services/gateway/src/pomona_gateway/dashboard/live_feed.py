"""The state of the cluster as all open pages see it: computed once, at most once a second.

A page never waits for another one, and no stream of tokens waits for a page: each connection takes
the newest state when its client has read the one before, and skips those between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from pomona.cluster_report import ClusterReport, cluster_report
from pomona.errors import RequestError
from pomona.messages.control import Beacon
from pomona.service import ControlPlane
from pomona_gateway.dashboard.change_log import ChangeLog
from pomona_gateway.dashboard.history import FIELDS, INTERVAL_S, History
from pomona_gateway.dashboard.model_list import ModelList
from pomona_gateway.dashboard.work_rates import WorkRates

log = logging.getLogger(__name__)

UPDATE_S = 1.0
"""Seconds between two states for the open pages."""
MAX_PAGES = 64
"""Maximum number of open event streams."""
RETRY_AFTER_S = 5


def encode_event(name: str, content: Any) -> bytes:
    """Encodes a server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(content) + b"\n\n"


@dataclass(slots=True)
class _Page:
    """State of one connection: the samples, changes and versions sent to it."""

    samples: int = 0
    changes: int = 0
    versions: dict[str, int] = field(default_factory=dict[str, int])


class LiveFeed:
    """Computes the events of ``GET /api/pomona/v1/events``.

    Args:
        cluster: name of the cluster.
        first_tokens: returns the number of first tokens so far, and the sum of their times.
        cache_use: returns the share of the KV caches in use.
        models: list of models for the pages.
    """

    def __init__(
        self,
        cluster: str,
        control: ControlPlane,
        first_tokens: Callable[[], tuple[int, float]],
        cache_use: Callable[[], float],
        models: ModelList,
    ) -> None:
        self._cluster = cluster
        self._control = control
        self._first_tokens = first_tokens
        self._cache_use = cache_use
        self._models = models
        self._history = History()
        self._changes = ChangeLog()
        self._rates = WorkRates()
        self._states: dict[str, tuple[int, bytes]] = {}
        self._pages = 0
        self._ended = False
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._sampled_at = 0.0
        control.on_beacon(self._on_beacon)
        control.on_lost(lambda beacon: self._rates.forget(beacon.name))
        self._task = asyncio.create_task(self._run())

    def report(self) -> ClusterReport:
        """Computes the state of the cluster, as ``pomona status`` does."""
        return cluster_report(self._cluster, [lease.beacon for lease in self._control.leases])

    def open_page(self, hello: dict[str, Any]) -> AsyncGenerator[bytes]:
        """Returns the events for one page, until :meth:`end`.

        Args:
            hello: content of the first event.

        Raises:
            RequestError: too many pages are open (503).
        """
        if self._pages >= MAX_PAGES:
            message = f"{self._pages} pages are open, the most that one gateway serves; close one"
            raise RequestError(503, "too_many_pages", message, retry_after_s=RETRY_AFTER_S)
        return self._events(hello)

    def end(self) -> None:
        """Ends the streams of all pages."""
        self._ended = True
        self._changed.set()

    async def close(self) -> None:
        """Ends the streams and the task that computes states."""
        self.end()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._models.close()

    def _on_beacon(self, beacon: Beacon) -> None:
        self._rates.on_beacon(beacon, time.monotonic())

    async def _events(self, hello: dict[str, Any]) -> AsyncGenerator[bytes]:
        page = _Page()
        self._pages += 1
        self._wanted.set()
        try:
            yield encode_event("hello", hello)
            fields = {"interval_s": INTERVAL_S, "fields": FIELDS}
            page.samples = self._history.added
            yield encode_event("history", {**fields, "samples": self._history.after(0)})
            while not self._ended:
                changed = self._changed
                parts = self._unsent(page)
                if parts:
                    yield b"".join(parts)
                elif not self._ended:
                    await changed.wait()
        finally:
            self._pages -= 1
            if not self._pages:
                self._states.clear()  # outdated when the next page opens

    def _unsent(self, page: _Page) -> list[bytes]:
        """Returns the events that a page has not been sent, and marks them as sent."""
        parts: list[bytes] = []
        for name, (version, content) in self._states.items():
            if page.versions.get(name) != version:
                page.versions[name] = version
                parts.append(content)
        if page.samples != self._history.added:
            parts.append(encode_event("samples", self._history.after(page.samples)))
            page.samples = self._history.added
        if page.changes != self._changes.added:
            parts.append(encode_event("changes", self._changes.after(page.changes)))
            page.changes = self._changes.added
        return parts

    async def _run(self) -> None:
        while True:
            try:
                self._update()
            except Exception:
                log.exception("cannot compute the state of the cluster")
            # Without a page only the samples of the history are taken.
            wait_s = UPDATE_S if self._pages else self._sampled_at + INTERVAL_S - time.monotonic()
            self._wanted.clear()
            if self._pages:
                await asyncio.sleep(UPDATE_S)
                continue
            try:
                async with asyncio.timeout(max(wait_s, 0.0)):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    def _update(self) -> None:
        now = time.monotonic()
        report = self.report()
        self._changes.observe(report, time.time())
        if now - self._sampled_at >= INTERVAL_S - UPDATE_S / 2:
            self._sampled_at = now
            self._history.add(report, self._first_tokens(), self._cache_use(), time.time())
        if self._pages:
            self._set_state("cluster", report)
            self._set_state("work", self._rates.work())
            self._models.update(report)
            self._set_state("models", self._models.entries)
        self._changed.set()
        self._changed = asyncio.Event()

    def _set_state(self, name: str, content: Any) -> None:
        encoded = encode_event(name, content)
        version, known = self._states.get(name, (0, b""))
        if encoded != known:
            self._states[name] = version + 1, encoded
