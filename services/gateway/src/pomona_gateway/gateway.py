"""The parts of a gateway. HTTP handlers reach them through ``app.state.gateway``."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import shlex
import time
from functools import partial

from pomona.auth.api_keys import KeyStore
from pomona.auth.key_usage import UsageStore
from pomona.errors import ConfigurationError, RequestError
from pomona.messages.control import Beacon, GatewayFacts, PlannerFacts
from pomona.service import ControlPlane
from pomona.settings import default_state_dir
from pomona_gateway.dashboard.live_feed import LiveFeed
from pomona_gateway.dashboard.membership import MembershipCommands
from pomona_gateway.dashboard.model_list import ModelList
from pomona_gateway.dashboard.pomona_commands import CommandQueue
from pomona_gateway.dashboard.pulls import Pulls
from pomona_gateway.drain_requests import DrainRequests
from pomona_gateway.grammar import GrammarChecker
from pomona_gateway.http.openai import response_store
from pomona_gateway.http.openai.response_store import ResponseStore
from pomona_gateway.metrics import Metrics
from pomona_gateway.models.load_requests import LoadRequests
from pomona_gateway.models.placement_requests import PlacementRequests
from pomona_gateway.models.registry import ModelRegistry
from pomona_gateway.pipeline.client import PipelineClient
from pomona_gateway.pipeline.probe import PipelineProbes, VerifiedRoutes
from pomona_gateway.pipeline.router import RouteTable
from pomona_gateway.rate_limits import RateLimits
from pomona_gateway.runs.disk_journal import DiskJournal
from pomona_gateway.runs.run_registry import RunRegistry
from pomona_gateway.settings import GatewaySettings
from pomona_gateway.text import load_language_model
from pomona_gateway.text.system_lines import SystemLines

log = logging.getLogger(__name__)

DRAIN_RETRY_AFTER_S = 2
START_S = 15.0
"""Seconds after its start in which a gateway lets requests wait until it knows the cluster."""
START_POLL_S = 0.05
PLAN_SILENCE_S = 6.0
"""Seconds without a valid beacon of a planner after which the gateway is not ready. A planner that
is restarted takes fewer."""
USAGE_INTERVAL_S = 5.0
"""Seconds between two writes of key usage; a crash loses at most this much."""


class Gateway:
    """The parts of one gateway and its place in the cluster.

    Attributes:
        drain_begun: set when this gateway has been told to end.
        succeeded: set when another gateway serves under this one's name, while this one drains.
        keys: API keys.
        usage: tokens used, by key.
        rate_limits: limits of each key.
        response_store: stored responses of the Responses API.
        feed: state of the cluster for the pages.
        plan_commands: runs ``pomona plan``.
        pulls: downloads of models to this machine.
        membership: reads and changes the roster of this node.
        runs: requests whose replies outlive their connections, and this process.
        metrics: Prometheus metrics.
        control: sends and receives beacons.
        route_table: pipelines and routes, from the beacons.
        verified_routes: routes through which a token has come.
        pipelines: runs sequences on the pipelines.
        load_requests: models to load or unload, stated to the planner.
        drain_requests: nodes to drain, stated to the planner.
        placement: choices for machines, stated to the planner.
        models: tokenizers and chat templates.
        grammars: compiles grammars before they are used.
    """

    def __init__(self, settings: GatewaySettings, url: str) -> None:
        """Raises ConfigurationError when the API needs a key and there is none."""
        self.settings = settings
        self.url = url
        self.draining = False
        self._started = time.monotonic()
        self.drain_begun = asyncio.Event()
        self.succeeded = asyncio.Event()
        self._planner_heard_at: float | None = None
        self.keys = KeyStore(settings.state_dir)
        self.requires_key = requires_key(settings, self.keys)
        self.usage = UsageStore(settings.state_dir)
        self.rate_limits = RateLimits()
        on_disk = settings.journal == "disk"
        self.response_store = ResponseStore(
            settings.state_dir / response_store.FOLDER if on_disk else None,
            settings.stored_responses_max_bytes,
        )
        self.metrics = Metrics()
        self.control = ControlPlane(
            settings,
            f"{settings.node}.gateway",
            self.facts,
            work=lambda: (self.pipelines.progress, self.pipelines.running),
        )
        self.route_table = RouteTable(settings.node)
        self.verified_routes = VerifiedRoutes(self.route_table, self._on_verified)
        self.pipelines = PipelineClient(
            settings,
            self.control.identity,
            self.route_table,
            self.metrics,
            self.verified_routes.on_token,
        )
        self.drain_requests = DrainRequests(self.control.publish_now)
        self.load_requests = LoadRequests(self.control.publish_now, settings.load_on_request)
        self.placement = PlacementRequests(self.control.publish_now)
        lines = SystemLines(settings.dropped_system_lines, settings.volatile_system_lines)
        self.models = ModelRegistry(
            self.route_table,
            partial(load_language_model, system_lines=lines),
            self.load_requests,
            aliases=settings.model_aliases,
            unknown_is_loaded=settings.unknown_models == "loaded",
        )
        self.grammars = GrammarChecker(settings)
        self.runs = RunRegistry(
            open_journal(settings, self.control.identity.boot) if on_disk else None,
            settings.journal_keep_s,
            settings.journal_max_bytes,
        )
        self.runs.is_stored = lambda origin: (
            origin.kind == "response"
            and self.response_store.get(origin.id, origin.tenant) is not None
        )
        self.control.endpoints |= {"http": url, "data": self.pipelines.endpoint}
        self.control.on_beacon(self._on_beacon)
        self.plan_commands = CommandQueue()
        self.pulls = Pulls()
        self.membership = MembershipCommands(settings)
        self.feed = LiveFeed(
            settings.cluster,
            self.control,
            self.metrics.first_tokens,
            self._cache_use,
            ModelList(self.models.problem, lambda: dict(self.pulls.reasons)),
        )
        self._probes = PipelineProbes(
            self.pipelines,
            self.route_table,
            self.verified_routes,
            settings.first_token_deadline_s,
        )
        self._usage_writer = asyncio.create_task(self._write_usage_periodically())

    def facts(self) -> GatewayFacts:
        """Returns the facts for the gateway's beacon."""
        return GatewayFacts(
            self.url,
            self.pipelines.running,
            self.verified_routes.epochs(),
            self.load_requests.pending,
            self.load_requests.last_used(self.pipelines.running_models()),
            self.pipelines.oldest(),
            self.pipelines.paused,
            self.pipelines.pauses.resumed,
            round(self.pipelines.pauses.longest_s, 1),
            self.settings.load_on_request,
            self.drain_requests.pending,
            self.placement.pending,
        )

    def count_error(self, error: RequestError, model: str = "") -> None:
        """Counts a request that was answered with an error."""
        self.metrics.refused.labels(model, str(error.status), error.code).inc()

    def hears_planner(self) -> bool:
        """Checks that a planner's valid beacon has arrived within ``PLAN_SILENCE_S``."""
        heard = self._planner_heard_at
        return heard is not None and time.monotonic() - heard <= PLAN_SILENCE_S

    def planner_trouble(self) -> str:
        """Says what follows from a planner that is not heard."""
        if self._planner_heard_at is None:
            return "no planner's beacon has arrived yet"
        silent_s = time.monotonic() - self._planner_heard_at
        return (
            f"no valid plan arrives, for {silent_s:.0f} s: the planner is gone, or its beacon is "
            "not valid. Answers go on; no model is loaded and no lost stage is replaced"
        )

    def ready(self) -> bool:
        """Checks that a plan is valid, some model is readable and its pipeline verified."""
        return not self.draining and self.hears_planner() and self._serves_a_model()

    def _serves_a_model(self) -> bool:
        return any(not self.models.problem(model) for model in self.verified_routes.epochs())

    def drain(self) -> None:
        """Refuses new requests, and ends the events of pages. Running requests continue."""
        self.draining = True
        self.drain_begun.set()
        self.feed.end()
        self.control.state = "draining"

    def check_accepting(self) -> None:
        """Raises RequestError (503) while the gateway drains."""
        if self.draining:
            raise RequestError(
                503,
                "shutting_down",
                "this gateway is shutting down; try again in a moment",
                retry_after_s=DRAIN_RETRY_AFTER_S,
            )

    async def wait_for_model(self, name: str) -> None:
        """Waits while :meth:`is_settling`."""
        while True:
            if not self.is_settling(name):
                return
            await asyncio.sleep(START_POLL_S)

    def is_settling(self, name: str) -> bool:
        """Checks that the gateway has just started, and lacks something to serve a model."""
        if time.monotonic() > self._started + START_S:
            return False
        if not self.route_table.pipelines:
            return True
        pipeline = self.models.planned(name)
        if pipeline is None or pipeline.state != "active":
            return False
        is_being_read = self.models.problem(name) and not self.models.has_failed(name)
        return bool(is_being_read) or self.route_table.route(pipeline.model) is None

    async def close(self) -> None:
        """Fails running requests and ends every task, thread and process."""
        await self.feed.close()
        await self.pulls.close()
        await self.runs.close()
        await asyncio.to_thread(self.response_store.close)
        await asyncio.to_thread(self.grammars.close)
        self._usage_writer.cancel()
        await asyncio.gather(self._usage_writer, return_exceptions=True)
        await self._probes.close()
        await self.models.close()
        await self.pipelines.close()
        await self._write_usage()

    def _cache_use(self) -> float:
        """Returns the share of the KV caches in use, of the tightest pipeline, 0 to 1."""
        return max(map(self.route_table.cache_use, self.route_table.pipelines), default=0.0)

    def _on_beacon(self, beacon: Beacon) -> None:
        if isinstance(beacon.facts, PlannerFacts):
            self._planner_heard_at = time.monotonic()
        own = self.control.identity
        is_other = beacon.name == own.name and beacon.boot != own.boot
        if self.draining and is_other and beacon.state in ("starting", "ready"):
            self.succeeded.set()
        routes_changed = self.route_table.on_beacon(beacon)
        if routes_changed:
            self.pipelines.on_routes_changed()
        self.load_requests.on_beacon(beacon)
        self.drain_requests.on_beacon(beacon)
        self.placement.on_beacon(beacon)
        self.models.load_missing()
        if routes_changed:
            self._update_state()
        if not self.draining:
            self._probes.update()

    def _on_verified(self) -> None:
        self._update_state()
        self.control.publish_now()

    def _update_state(self) -> None:
        if not self.draining:
            self.control.state = "ready" if self.verified_routes.epochs() else "starting"

    async def _write_usage_periodically(self) -> None:
        while True:
            await asyncio.sleep(USAGE_INTERVAL_S)
            await self._write_usage()

    async def _write_usage(self) -> None:
        try:
            content = self.usage.pending_write(self.keys.list())
            if content is not None:
                await asyncio.to_thread(self.usage.write, content)
        except OSError as error:
            self.usage.restore()
            log.warning("cannot write the usage of API keys", extra={"reason": str(error)})
        except ConfigurationError as error:
            log.warning("cannot write the usage of API keys", extra={"reason": str(error)})


def requires_key(settings: GatewaySettings, keys: KeyStore) -> bool:
    """Decides whether requests need an API key.

    Raises:
        ConfigurationError: they need one and none exists.
    """
    required = settings.require_key
    if required is None:
        required = not is_loopback(settings.host)
    if required and not keys.list():
        raise ConfigurationError(
            f"the API on {settings.host} needs an API key, and there is none in {keys.path}: "
            f"make one with `{_create_command(settings)}`, or set POMONA_GATEWAY_HOST to 127.0.0.1"
        )
    return required


def _create_command(settings: GatewaySettings) -> str:
    """Returns the command that creates a key for a gateway with these settings, in any shell."""
    folder = settings.state_dir
    if folder == default_state_dir():
        return "pomona keys create NAME"
    return f"POMONA_STATE_DIR={shlex.quote(str(folder))} pomona keys create NAME"


def is_loopback(host: str) -> bool:
    """Checks that only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_journal(settings: GatewaySettings, boot: str) -> DiskJournal | None:
    """Opens the journal on disk; None, so that runs are in memory only, when it cannot be."""
    try:
        return DiskJournal(settings.state_dir, boot, settings.journal_max_bytes)
    except OSError as error:
        log.warning("runs are kept in memory only", extra={"reason": str(error)})
        return None
