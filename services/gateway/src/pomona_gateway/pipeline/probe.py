"""Proof that a pipeline works: a token that came through its present epoch.

A pipeline that no client uses gets a probe: one token, generated until it arrives.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import Callable

from pomona.errors import RequestError
from pomona.messages.pipeline import Token
from pomona.messages.sampling import Sampling
from pomona_gateway.pipeline.client import PipelineClient
from pomona_gateway.pipeline.inbox import Inbox
from pomona_gateway.pipeline.instructions import SequenceRequest
from pomona_gateway.pipeline.router import Route, RouteTable

log = logging.getLogger(__name__)

RETRY_INTERVAL_S = 1.0


class VerifiedRoutes:
    """Routes through which a token has come.

    Args:
        on_verified: called after the first token of an epoch.
    """

    def __init__(self, routes: RouteTable, on_verified: Callable[[], None]) -> None:
        self._routes = routes
        self._on_verified = on_verified
        self._verified: dict[str, Route] = {}

    def on_token(self, model: str) -> None:
        """Records that a token of a model arrived."""
        route = self._routes.route(model)
        if route is not None and route not in self:
            self._verified[model] = route
            log.info("first token of an epoch", extra={"model": model, "epoch": route.epoch})
            self._on_verified()

    def __contains__(self, route: Route) -> bool:
        return self._verified.get(route.model) == route

    def epochs(self) -> dict[str, int]:
        """Returns the verified epoch of each model that has a route."""
        return {model: x.epoch for model, x in self._routes.routes.items() if x in self}


class PipelineProbes:
    """Sends a token through every route that is not verified.

    Args:
        deadline_s: seconds to wait for an event of a probe.
    """

    def __init__(
        self,
        pipelines: PipelineClient,
        routes: RouteTable,
        verified: VerifiedRoutes,
        deadline_s: float,
    ) -> None:
        self._pipelines = pipelines
        self._routes = routes
        self._verified = verified
        self._deadline_s = deadline_s
        self._tasks: dict[str, tuple[Route, asyncio.Task[None]]] = {}

    def update(self) -> None:
        """Starts a probe for each unverified route and cancels those of former routes."""
        for model, route in self._routes.routes.items():
            if route in self._verified:
                continue
            known = self._tasks.get(model)
            if known is None or known[0] != route:
                if known is not None:
                    known[1].cancel()
                self._tasks[model] = (route, asyncio.create_task(self._probe(route)))

    async def close(self) -> None:
        tasks = [task for _, task in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _probe(self, route: Route) -> None:
        sampling = Sampling(max_tokens=1, temperature=0.0)
        sequence = SequenceRequest(route.model, array("i", [0]), sampling, measured=False)
        while self._routes.route(route.model) == route:
            try:
                await self._first_token(sequence)
                return
            except RequestError as error:
                log.warning(
                    "pipeline probe failed",
                    extra={"model": route.model, "epoch": route.epoch, "reason": error.message},
                )
            await asyncio.sleep(RETRY_INTERVAL_S)

    async def _first_token(self, sequence: SequenceRequest) -> None:
        inbox = Inbox()
        running = self._pipelines.submit(sequence, inbox)
        try:
            while True:
                arrived = await inbox.receive(self._deadline_s)
                if arrived is not None and isinstance(arrived[1], Token):
                    return
        finally:
            self._pipelines.cancel(running)
