"""The parts of a gateway, tied together: what HTTP handlers reach through ``app.state``."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from array import array

from pomona.auth.api_keys import KeyStore
from pomona.auth.key_usage import UsageStore
from pomona.errors import ConfigurationError, RequestError
from pomona.messages.control import Beacon, GatewayFacts
from pomona.messages.pipeline import Token
from pomona.messages.sampling import Sampling
from pomona.service import ControlPlane
from pomona_gateway.grammar import GrammarCheck
from pomona_gateway.http.openai.response_store import ResponseStore
from pomona_gateway.metrics import Metrics
from pomona_gateway.models.load_requests import ModelRequests
from pomona_gateway.models.registry import ModelRegistry
from pomona_gateway.pipeline.client import PipelineClient
from pomona_gateway.pipeline.inbox import Generation, Inbox
from pomona_gateway.pipeline.router import Route
from pomona_gateway.rate_limits import RateLimits
from pomona_gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

PROBE_RETRY_S = 1.0
DRAIN_RETRY_AFTER_S = 5
USAGE_INTERVAL_S = 5.0
"""Between two writings of what keys have used: what a crash may lose."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def requires_key(settings: GatewaySettings, keys: KeyStore) -> bool:
    """Whether requests need a key. Raises ConfigurationError when they do and there is none."""
    reachable = not is_loopback(settings.host)
    required = reachable if settings.require_key is None else settings.require_key
    if required and not keys.list():
        raise ConfigurationError(
            f"the API on {settings.host} needs an API key, and there is none in {keys.path}: "
            "make one with `pomona keys create NAME`, or set POMONA_GATEWAY_HOST to 127.0.0.1"
        )
    return required


class Gateway:
    """One gateway: its engine, its models, and its place in the cluster."""

    def __init__(self, settings: GatewaySettings, url: str) -> None:
        """Raises ConfigurationError when others than this machine could use it without a key."""
        self.settings = settings
        self.url = url
        self.keys = KeyStore(settings.state_dir)
        self.requires_key = requires_key(settings, self.keys)
        self.usage = UsageStore(settings.state_dir)
        self.allowances = RateLimits()
        self.conversations = ResponseStore()
        self.metrics = Metrics()
        self.control = ControlPlane(
            settings,
            f"{settings.node}.gateway",
            self.facts,
            work=lambda: (self.engine.progress, self.engine.running),
        )
        self.engine = PipelineClient(settings, self.control.identity, self.metrics, self._proved)
        self.model_requests = ModelRequests(self.control.publish_now, settings.load_on_request)
        self.catalogue = ModelRegistry(self.engine.table, requests=self.model_requests)
        self.grammars = GrammarCheck(settings)
        self.control.endpoints |= {"http": url, "data": self.engine.endpoint}
        self.control.on_beacon(self._heard)
        self.draining = False
        self._probes: dict[str, tuple[Route, asyncio.Task[None]]] = {}
        self._bookkeeper = asyncio.create_task(self._keep_books())

    def facts(self) -> GatewayFacts:
        return GatewayFacts(
            self.url,
            self.engine.running,
            self.engine.proven_epochs(),
            self.model_requests.pending,
            self.model_requests.used(self.engine.running_models()),
        )

    def refused(self, error: RequestError, model: str = "") -> None:
        """A request was answered with this error."""
        self.metrics.refused.labels(model, str(error.status), error.code).inc()

    def ready(self) -> bool:
        """Whether a token came through some pipeline in its present epoch."""
        return not self.draining and any(
            not self.catalogue.problem(model) for model in self.engine.proven_epochs()
        )

    def drain(self) -> None:
        """Take no new requests; those that run go on."""
        self.draining = True
        self.control.state = "draining"
        self.engine.stop(
            RequestError(
                503,
                "shutting_down",
                "this gateway is shutting down",
                retry_after_s=DRAIN_RETRY_AFTER_S,
            )
        )

    async def close(self) -> None:
        self.grammars.close()
        tasks = [self._bookkeeper, *(task for _, task in self._probes.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.catalogue.close()
        await self.engine.close()
        await self._write_usage()

    async def _keep_books(self) -> None:
        while True:
            await asyncio.sleep(USAGE_INTERVAL_S)
            await self._write_usage()

    async def _write_usage(self) -> None:
        try:
            content = self.usage.pending_write(self.keys.list())
            if content is not None:
                await asyncio.to_thread(self.usage.write, content)
        except (OSError, ConfigurationError) as error:
            log.warning("what keys have used cannot be kept", extra={"reason": str(error)})

    def _heard(self, beacon: Beacon) -> None:
        changed = self.engine.on_beacon(beacon)
        self.model_requests.on_beacon(beacon)
        self.catalogue.follow()
        if changed:
            self._restate()
        self._probe()

    def _proved(self) -> None:
        self._restate()
        self.control.publish_now()

    def _restate(self) -> None:
        if not self.draining:
            self.control.state = "ready" if self.engine.proven_epochs() else "starting"

    def _probe(self) -> None:
        """Send a token through every pipeline of which none is known in its epoch."""
        routes = self.engine.table.routes
        for model, route in routes.items():
            known = self._probes.get(model)
            if self.draining or self.engine.proven.get(model) == route:
                continue
            if known is None or known[0] != route:
                if known is not None:
                    known[1].cancel()
                self._probes[model] = (route, asyncio.create_task(self._prove(route)))

    async def _prove(self, route: Route) -> None:
        sampling = Sampling(max_tokens=1, temperature=0.0)
        generation = Generation(route.model, array("i", [0]), sampling, measured=False)
        while self.engine.table.route(route.model) == route:
            inbox = Inbox()
            try:
                running = self.engine.submit(generation, inbox)
                try:
                    while True:
                        arrived = await inbox.receive(self.settings.first_token_deadline_s)
                        if arrived is not None and isinstance(arrived[1], Token):
                            return
                finally:
                    self.engine.abandon(running)
            except RequestError as error:
                log.warning(
                    "the probe of a pipeline failed",
                    extra={"model": route.model, "epoch": route.epoch, "reason": error.message},
                )
            await asyncio.sleep(PROBE_RETRY_S)
