"""The stage worker: follows the plan, loads its stages and reports their state."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from pomona.errors import PomonaError
from pomona.messages.control import Beacon, GatewayFacts, Pipeline, PlannerFacts, StageWorkerFacts
from pomona.messages.limits import MAX_EPOCH
from pomona.metrics_server import MetricsServer
from pomona.models.sources import limit_paths
from pomona.models.store.remote_source import RemoteSource
from pomona.service import ControlPlane
from pomona.stalls import WINDOW_S, read_stalls
from pomona.transport import Pull
from pomona_stage_worker.compute_backend import ComputeBackend
from pomona_stage_worker.drafting.loaded_drafts import LoadedDrafts
from pomona_stage_worker.engine.prefill_record import PrefillRecord, prompt_limit
from pomona_stage_worker.engine.stage_runner import RunnerLoad, StageRunner
from pomona_stage_worker.engine.step_loop import StepLoop
from pomona_stage_worker.engine.watchdog import Watchdog
from pomona_stage_worker.hardware.benchmark import Speed
from pomona_stage_worker.hardware.lost_memory import SETTLE_S, WiredRecord
from pomona_stage_worker.hardware.panic_guard import PanicGuard, Share
from pomona_stage_worker.loaded_stage import MAX_ERROR_CHARACTERS, LoadedStage
from pomona_stage_worker.loading import StageWeights
from pomona_stage_worker.loading.file_server import FileServer
from pomona_stage_worker.loading.peer_fetching import PeerFetching
from pomona_stage_worker.loading.readable_folders import ReadableFolders
from pomona_stage_worker.loading.resident_weights import ResidentWeights
from pomona_stage_worker.mapped_number import MappedNumber
from pomona_stage_worker.model.mlx_stage import Stage
from pomona_stage_worker.reconcile import (
    Install,
    Remove,
    Resize,
    accept_plan,
    reconcile,
    wanted_stages,
)
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.scheduler.limits import chunk_limits
from pomona_stage_worker.settings import StageWorkerSettings
from pomona_stage_worker.step_width import common_width

log = logging.getLogger(__name__)

T = TypeVar("T")

RATE_WINDOW_S = 5.0
"""Window over which tokens per second are averaged."""
MIN_RATE_S = 0.5
STOP_DEADLINE_S = 10.0
MEMORY_POLL_S = 2.0
START_DEADLINE_S = 60.0
"""Deadline for the step thread to take a loaded stage, which it does between two steps."""


class StageWorker:
    """Reconciles this process with the newest plan."""

    def __init__(self, settings: StageWorkerSettings, backend: ComputeBackend) -> None:
        self._settings = settings
        self._backend = backend
        self._stages: dict[int, LoadedStage] = {}
        self._gateways: dict[str, Beacon] = {}
        self._resident_weights = ResidentWeights()
        self._loading = asyncio.Lock()
        self._closing: set[asyncio.Future[None]] = set()
        self._broken = (0, "")
        self._highest_epoch = 0
        self._saved_epoch = MappedNumber(settings.state_dir / f"{settings.instance}.epoch")
        self._obeyed: dict[str, int] = {}
        self._stalled_at = read_stalls(settings.state_dir, settings.instance)
        self._wired_record = WiredRecord(settings.state_dir, settings.instance)
        self._unusable_reason = ""
        self._prefills = PrefillRecord(settings.state_dir, settings.instance, time.time())
        self._speed = Speed()
        self._sources: frozenset[str] = frozenset()
        self._fetching = PeerFetching(self._settings.node)
        self._folders = ReadableFolders(settings.model_folders)
        limit_paths(self._folders.may_open)
        self._rates: list[tuple[float, int]] = []
        self._removed_steps = 0
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._tasks: set[asyncio.Task[None]] = set()
        pull = Pull(
            settings.data_host,
            settings.data_port,
            "POMONA_STAGE_WORKER_DATA_PORT",
            local_folder=settings.state_dir,
        )
        self._endpoint, local = pull.endpoint, pull.local_endpoint
        self._panic_guard = PanicGuard(settings.state_dir, settings.instance)
        self._usable_bytes = settings.usable_memory()
        self._control = ControlPlane(
            settings,
            settings.instance,
            self._facts,
            {"data": pull.endpoint} | ({"local": local} if local else {}),
            self._work,
        )
        on_idle = backend.warmth.rest if backend.warmth is not None else None
        self._loop = StepLoop(self._control.identity, pull, backend.release_memory, on_idle)
        self._drafts = LoadedDrafts(backend.read_draft, self._loader, self._loop)
        self._watchdog = Watchdog(self._loop, settings.state_dir, settings.instance)
        self._control.on_beacon(self._on_beacon)

    async def run(self, stop: asyncio.Event) -> None:
        """Runs the service until ``stop`` is set."""
        metrics = MetricsServer(
            self._settings, "POMONA_STAGE_WORKER_METRICS_PORT", self._control.on_metrics_url
        )
        files = FileServer(
            self._settings.data_host, self._served_sources, port=self._settings.files_port
        )
        self._control.endpoints["files"] = files.endpoint
        self._loop.start()
        try:
            async with self._control.running():
                await self._wait_for_memory(stop)
                await self._measure_speed()
                self._control.state = "ready"
                while not stop.is_set():
                    self._check_health()
                    try:
                        async with asyncio.timeout(0.1):
                            await stop.wait()
                    except TimeoutError:
                        continue
                self._control.state = "draining"
        finally:
            for task in self._tasks:
                task.cancel()
            self._drafts.close_all()
            self._loader.shutdown(wait=False, cancel_futures=True)
            if not self._loop.stop(STOP_DEADLINE_S):
                log.error("a step did not end within %g s; stopping without it", STOP_DEADLINE_S)
            files.close()
            self._panic_guard.stop()
            metrics.close()

    async def _wait_for_memory(self, stop: asyncio.Event) -> None:
        """Waits until the memory that an ended process had wired is back, which may be never.

        The beacon says so, and the planner does without this worker.
        """
        began = time.monotonic()
        while (trouble := self._wired_record.trouble()) and not stop.is_set():
            if time.monotonic() - began > SETTLE_S and self._control.state != "failed":
                log.error("%s", trouble)
                self._unusable_reason = trouble
                self._control.state = "failed"
            with suppress(TimeoutError):
                async with asyncio.timeout(MEMORY_POLL_S):
                    await stop.wait()
        self._unusable_reason = ""

    async def _measure_speed(self) -> None:
        """Measures this machine's speed. Without it only the planner's predictions are worse."""
        loop = asyncio.get_running_loop()
        try:
            self._speed = await loop.run_in_executor(
                self._loader, self._backend.measure, self._settings.state_dir
            )
        except Exception:
            log.exception("cannot measure the machine's speed")

    def _check_health(self) -> None:
        """Reports the newest epoch that failed here. Raises PomonaError when the step thread has
        ended; ends the process when it hangs."""
        if not self._loop.is_alive():
            raise PomonaError("the step thread has ended; restarting the worker")
        stages = list(self._stages.values())
        self._watchdog.check(
            [stage.runner for stage in stages if stage.runner is not None],
            [
                (epoch, done)
                for epoch, x in self._stages.items()
                if (done := x.bytes_read) is not None
            ],
        )
        for epoch, stage in self._stages.items():
            failure = stage.failure
            if failure is not None and epoch > self._broken[0]:
                self._broken = (epoch, failure)
                stage.set_failed(failure)
                self._control.publish_now()

    # The beacon ------------------------------------------------------------------------

    def _loads(self) -> list[RunnerLoad]:
        return [stage.runner.load for stage in self._stages.values() if stage.runner is not None]

    def _work(self) -> tuple[int, int]:
        """Returns the steps run so far and the requests that need more."""
        runners = [stage.runner for stage in self._stages.values() if stage.runner is not None]
        progress = self._removed_steps + sum(runner.load.steps for runner in runners)
        queued = sum(r.load.active + r.load.waiting or int(r.busy) for r in runners)
        return progress, queued

    def _facts(self) -> StageWorkerFacts:
        loads = self._loads()
        memory = self._backend.process_memory()
        return StageWorkerFacts(
            device=self._backend.device,
            usable_memory_bytes=self._usable_bytes,
            resident_bytes=memory.resident,
            footprint_bytes=memory.footprint,
            active_bytes=memory.active,
            cached_bytes=memory.cached,
            panicked_at=self._panic_guard.panicked_at,
            stages=tuple(stage.status() for stage in self._stages.values()),
            cache_bytes=sum(load.cache_bytes for load in loads),
            prefix_bytes=sum(load.prefix_bytes for load in loads),
            compute_us=sum(load.compute_us for load in loads),
            sequences=sum(load.sequences for load in loads),
            prefixes=sum(load.prefixes for load in loads),
            lanes=sum(load.lanes for load in loads),
            waiting=sum(load.waiting for load in loads),
            step_tokens=sum(load.step_tokens for load in loads),
            tokens_per_second=self._token_rate(sum(load.tokens for load in loads)),
            table=loads[-1].table if loads else "",
            broken_epoch=self._broken[0],
            broken_reason=self._broken[1][:MAX_ERROR_CHARACTERS],
            memory_bandwidth=self._speed.memory_bandwidth,
            matrix_flops=self._speed.matrix_flops,
            layer_us=self._speed.layer_us,
            mlx_version=self._speed.mlx_version,
            wired_bytes=self._backend.memory.wired_bytes if self._backend.memory else 0,
            wirable_bytes=self._backend.memory.wirable_bytes if self._backend.memory else 0,
            highest_epoch=self._highest_epoch,
            saved_epoch=min(self._saved_epoch.value, MAX_EPOCH),
            obeyed_epochs=dict(self._obeyed),
            pipelines=tuple(
                stage.install.pipeline
                for stage in self._stages.values()
                if stage.install.position == 0
            ),
            unusable_reason=self._unusable_reason,
            prompt_limit=prompt_limit(self._prefills.deaths, time.time()),
            stalled_at=tuple(at for at in self._stalled_at if time.time() - at < WINDOW_S),
            false_weights=self._fetching.false_weights(time.monotonic()),
        )

    def _token_rate(self, tokens: int) -> float:
        """Returns the tokens per second over the window; 0 before it spans ``MIN_RATE_S``."""
        now = time.monotonic()
        self._rates = [(t, n) for t, n in self._rates if now - t <= RATE_WINDOW_S and n <= tokens]
        self._rates.append((now, tokens))
        first_at, first = self._rates[0]
        return (tokens - first) / (now - first_at) if now - first_at >= MIN_RATE_S else 0.0

    # The plan --------------------------------------------------------------------------

    def _on_beacon(self, beacon: Beacon) -> None:
        """Reconciles this worker with the plan of a planner's beacon."""
        if isinstance(beacon.facts, GatewayFacts):
            self._on_gateway(beacon)
        if isinstance(beacon.facts, StageWorkerFacts):
            self._update_widths()
        if not isinstance(beacon.facts, PlannerFacts) or beacon.state == "starting":
            return
        present = {epoch: stage.install for epoch, stage in self._stages.items()}
        pipelines, self._obeyed = accept_plan(beacon.facts.pipelines, self._obeyed, present)
        if (highest := max(self._obeyed.values(), default=0)) > self._saved_epoch.value:
            self._saved_epoch.store(highest)
        drafts = {pipeline.draft_source for pipeline in pipelines} - {""}
        self._sources = frozenset(pipeline.source for pipeline in pipelines) | drafts
        self._fetching.on_plan(beacon.node, pipelines)
        if beacon.node == self._settings.node:
            self._folders.on_plan(self._sources)
        wanted = wanted_stages(pipelines, self._settings.instance, self._endpoint)
        for action in reconcile(wanted, present):
            match action:
                case Remove():
                    self._remove(action.epoch)
                case Resize():
                    self._resize(action.install)
                case Install():
                    task = asyncio.create_task(self._install(action))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        self._resident_weights.keep_only(self._sources)

    def _on_gateway(self, beacon: Beacon) -> None:
        """Ends the requests of a gateway process that another one has replaced.

        One that was draining finishes its own.
        """
        known = self._gateways.get(beacon.name)
        self._gateways[beacon.name] = beacon
        if known is None or known.boot == beacon.boot or known.state == "draining":
            return
        name, boot = known.name, known.boot

        def end_requests() -> None:
            for runner in self._loop.runners.values():
                runner.end_requests_of(name, boot)

        log.info("gateway %s was replaced; its requests end", name)
        self._loop.call(end_requests)

    def _update_widths(self) -> None:
        """Lets the head guess as many tokens a step as all stages compute exactly."""
        if self._settings.deterministic:
            return
        beacons = self._control.leases.of_service("stage_worker")
        for stage in self._stages.values():
            runner = stage.runner
            if runner is not None and runner.is_head:
                width = common_width(stage.install.pipeline, runner.stage.max_width, beacons)
                if width != stage.guess_width:
                    stage.guess_width = width
                    self._loop.call(partial(runner.limit_width, width))

    def _remove(self, epoch: int) -> None:
        stage = self._stages.pop(epoch)
        self._drafts.close(epoch)
        if stage.weights is not None:
            self._resident_weights.put(stage.weights)
        runner = stage.runner
        log.info("removing the stage of epoch %d", epoch, extra={"epoch": epoch})
        if runner is not None:
            self._close_runner(epoch, runner)
        self._control.publish_now()

    def _close_runner(self, epoch: int, runner: StageRunner) -> None:
        """Ends a stage in the step thread, after which its weights and caches are free."""
        self._removed_steps += runner.load.steps
        loop = asyncio.get_running_loop()
        closed: asyncio.Future[None] = loop.create_future()
        self._closing.add(closed)
        closed.add_done_callback(self._closing.discard)

        def close() -> None:
            self._loop.runners.pop(epoch, None)
            runner.close("the pipeline is being re-formed")

        def release() -> None:
            self._update_memory()
            loop.call_soon_threadsafe(_resolve, closed, None)

        self._loop.call(close)
        # A call of its own, when the first one's reference to the caches is gone.
        self._loop.call(release)

    def _update_memory(self) -> None:
        """Wires the weights of the stages that run, and returns what others left behind.

        Runs in the step thread.
        """
        memory = self._backend.memory
        if memory is not None:
            stages = list(self._stages.values())
            nbytes = sum(x.weights.nbytes for x in stages if x.weights is not None)
            memory.set_weights(nbytes + self._drafts.nbytes)
            memory.release()
            self._wired_record.hold(memory.wired_bytes)

    def _resize(self, install: Install) -> None:
        pipeline = install.pipeline
        stage = self._stages[pipeline.epoch]
        stage.install = install
        runner = stage.runner
        if runner is not None:
            self._loop.call(lambda: runner.limit_caches(pipeline.cache_tokens))
        log.info(
            "caches now hold up to %d tokens", pipeline.cache_tokens,
            extra={"epoch": pipeline.epoch},
        )  # fmt: skip

    async def _install(self, install: Install) -> None:
        """Loads a stage and starts it. A failure is in the stage's status; the worker goes on."""
        epoch = install.pipeline.epoch
        self._highest_epoch = max(self._highest_epoch, epoch)
        stage = self._stages[epoch] = LoadedStage(install)
        self._control.publish_now()
        share = self._share(install)
        if refusal := self._panic_guard.refusal(share):
            stage.set_failed(refusal)
            log.error("%s", refusal, extra={"epoch": epoch})
            self._control.publish_now()
            return
        self._panic_guard.hold(share)
        try:
            async with self._loading:
                weights = await self._read_weights(install, stage)
                if self._stages.get(epoch) is not stage:
                    self._resident_weights.put(weights)
                    return
                stage.weights = weights
                started = stage.install
                stage.runner = await self._start_runner(started, weights)
                if self._stages.get(epoch) is not stage:
                    self._close_runner(epoch, stage.runner)
                    return
            self._watchdog.expect_decode(stage.runner.times.decode_us / 1e6)
            if stage.install is not started:
                self._resize(stage.install)
        except PomonaError as error:
            stage.set_failed(str(error))
            log.error("cannot load the stage: %s", error, extra={"epoch": epoch})
        except Exception as error:  # a broken file can make a library raise anything
            stage.set_failed(f"{type(error).__name__}: {error}")
            log.exception("cannot load the stage", extra={"epoch": epoch})
        else:
            group = weights.group(self._settings.instance, self._usable_bytes)
            stage.set_ready(weights.nbytes, group)
            self._loop.call(self._update_memory)
            log.info("ready: %d MB", weights.nbytes >> 20, extra={"epoch": epoch})
        self._control.publish_now()
        if stage.runner is not None:
            pipeline = stage.install.pipeline
            # The plan has no digest of the draft model, so only the planner's machine is believed.
            draft = replace(pipeline, source=pipeline.draft_source, digest="")
            await self._drafts.load(stage.install, stage.runner, self._file_peers(draft))
            self._loop.call(self._update_memory)

    def _share(self, install: Install) -> Share:
        layers = install.pipeline.stages[install.position]
        return Share(
            install.pipeline.source,
            layers.start,
            layers.stop,
            self._usable_bytes,
            self._settings.wired_weights,
        )

    async def _read_weights(self, install: Install, stage: LoadedStage) -> StageWeights:
        """Reads a stage's weights in the loader thread, reusing the resident ones.

        Removed stages are ended first, so that memory never holds two shares.
        """
        if self._closing:
            await asyncio.wait(self._closing, timeout=START_DEADLINE_S)
        pipeline = install.pipeline
        layers = pipeline.stages[install.position]
        log.info(
            "loading layers [%d, %d) of %s", layers.start, layers.stop, pipeline.model,
            extra={"epoch": pipeline.epoch},
        )  # fmt: skip
        return await asyncio.get_running_loop().run_in_executor(
            self._loader,
            self._backend.read, pipeline.source, layers.start, layers.stop, stage.report_progress,
            self._resident_weights.take(), self._file_peers(pipeline),
        )  # fmt: skip

    def _served_sources(self) -> frozenset[str]:
        """Returns the planned models whose files may be served from where they are."""
        return frozenset(x for x in self._sources if self._folders.may_open(Path(x).expanduser()))

    def _file_peers(self, pipeline: Pipeline) -> list[RemoteSource]:
        """Returns the other workers that serve model files, those of this node first."""
        own = self._control.identity.name
        workers = [x for x in self._control.leases.of_service("stage_worker") if x.name != own]
        return self._fetching.peers(
            pipeline, workers, self._control.leases.of_service("discovery"), time.monotonic()
        )

    async def _start_runner(self, install: Install, weights: StageWeights) -> StageRunner:
        """Assembles the stage in the step thread, the only one that may use it."""
        loop = asyncio.get_running_loop()
        started: asyncio.Future[StageRunner] = loop.create_future()

        def start() -> None:
            try:
                runner = self._make_runner(install, weights)
            except Exception as error:
                loop.call_soon_threadsafe(_resolve, started, error)
                return
            if started.done():
                runner.close("the stage was started too late")
                return
            # Objects that exist now stay; scanning them for garbage would cost milliseconds.
            gc.collect()
            gc.freeze()
            self._loop.runners[install.pipeline.epoch] = runner
            loop.call_soon_threadsafe(_resolve, started, runner)

        self._loop.call(start)
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                return await started
        except TimeoutError as error:
            raise PomonaError(
                f"the step thread did not start the stage within {START_DEADLINE_S:g} s, so a "
                "step hangs; restart this stage worker"
            ) from error

    def _make_runner(self, install: Install, weights: StageWeights) -> StageRunner:
        return StageRunner(
            self._control.identity,
            install.pipeline,
            install.position,
            self._backend.assemble(weights, install.pipeline),
            self._limits,
            self._settings.link_deadline_s,
            self._settings.trace_dir,
            self._prefills,
            self._backend.draft_sources,
            self._backend.release_memory,
        )

    def _limits(self, pipeline: Pipeline, stage: Stage) -> SchedulerLimits:
        settings = self._settings
        chunks = chunk_limits(
            self._backend.device, settings.prefill_chunk, stage.has_experts, pipeline
        )
        return SchedulerLimits(
            stages=len(pipeline.stages),
            context_length=pipeline.context_length,
            cache_tokens=pipeline.cache_tokens,
            can_batch=stage.can_batch and not settings.deterministic,
            can_slice=stage.can_slice,
            max_waiting=settings.max_waiting,
            max_running=settings.max_running,
            chunk=chunks.most,
            min_chunk=chunks.least,
            chunk_us=chunks.longest_us,
            chunk_cells=chunks.cells,
            pace=settings.pace,
            speculation=settings.speculation,
            can_roll_back=stage.can_roll_back,
            # Those of other stages are not known yet.
            max_width=1 if settings.deterministic or len(pipeline.stages) > 1 else stage.max_width,
            deterministic=settings.deterministic,
        )


def _resolve(future: asyncio.Future[T], outcome: T | Exception) -> None:
    """Sets a future's result or exception, unless its waiter has given up."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
