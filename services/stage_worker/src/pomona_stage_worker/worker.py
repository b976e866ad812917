"""The stage worker: follows the plan, loads its stages, says how they are."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from pomona.errors import PomonaError
from pomona.messages.control import (
    Beacon,
    Pipeline,
    PlannerFacts,
    StageStatus,
    StageWorkerFacts,
)
from pomona.models.store.peer_source import PeerSource
from pomona.models.store.remote_source import RemoteSource
from pomona.service import ControlPlane, start_metrics
from pomona.transport import Pull
from pomona_stage_worker.engine.stage_runner import StageRunner
from pomona_stage_worker.engine.step_loop import StepLoop
from pomona_stage_worker.hardware.benchmark import Speed
from pomona_stage_worker.loading import Progress, StageWeights
from pomona_stage_worker.loading.file_server import FileServer
from pomona_stage_worker.model.mlx_stage import Stage
from pomona_stage_worker.reconcile import Install, Remove, Resize, reconcile, wanted_stages
from pomona_stage_worker.scheduler import SchedulerLimits
from pomona_stage_worker.settings import StageWorkerSettings

log = logging.getLogger(__name__)

RATE_WINDOW_S = 5.0
STOP_DEADLINE_S = 10.0
START_DEADLINE_S = 60.0
"""For the step thread to take a loaded stage, which it does between two steps."""


@dataclass(frozen=True, slots=True)
class ComputeBackend:
    """What computes: MLX in production, an emulation in the benchmarks.

    Attributes:
        device: what the beacon says the worker computes on.
        measure: how fast this machine is, in a thread of its own, before anything is loaded; what
            was measured is kept in the folder.
        read: brings a stage's weights into memory, in a thread of its own.
        assemble: makes the stage, in the step thread.
    """

    device: str
    measure: Callable[[Path], Speed]
    read: Callable[
        [str, int, int, Progress, StageWeights | None, Sequence[RemoteSource]], StageWeights
    ]
    assemble: Callable[[StageWeights, Pipeline], Stage]


@dataclass(slots=True)
class LoadedStage:
    """A stage of one epoch, from the moment it is wanted."""

    install: Install
    status: StageStatus
    weights: StageWeights | None = None
    runtime: StageRunner | None = None


class StageWorker:
    """Reconciles this process to the newest plan that it hears."""

    def __init__(self, settings: StageWorkerSettings, engine: ComputeBackend) -> None:
        self._settings = settings
        self._engine = engine
        self._held: dict[int, LoadedStage] = {}
        self._spare: StageWeights | None = None
        self._broken = (0, "")
        self._speed = Speed()
        self._sources: frozenset[str] = frozenset()
        self._rates: list[tuple[float, int]] = []
        self._retired_steps = 0
        self._process = psutil.Process()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._tasks: set[asyncio.Task[None]] = set()
        pull = Pull(settings.data_host, settings.data_port, "POMONA_STAGE_WORKER_DATA_PORT")
        self._endpoint, local = pull.endpoint, pull.bind_unix_socket()
        self._usable = settings.usable_memory()
        self._control = ControlPlane(
            settings,
            settings.instance,
            self._facts,
            {"data": pull.endpoint} | ({"local": local} if local else {}),
            self._work,
        )
        self._loop = StepLoop(self._control.identity, pull)
        self._control.on_beacon(self._hear)

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set."""
        url, stop_metrics = start_metrics(self._settings, "POMONA_STAGE_WORKER_METRICS_PORT")
        self._control.endpoints["metrics"] = url
        files = FileServer(self._settings.data_host, lambda: self._sources)
        self._control.endpoints["files"] = files.url
        self._loop.start()
        try:
            async with self._control.running():
                await self._measure()
                self._control.state = "ready"
                while not stop.is_set():
                    if not self._loop.is_alive():
                        raise PomonaError("the thread that runs the steps has ended; starting anew")
                    self._look_for_failures()
                    try:
                        async with asyncio.timeout(0.1):
                            await stop.wait()
                    except TimeoutError:
                        continue
                self._control.state = "draining"
        finally:
            for task in self._tasks:
                task.cancel()
            self._loader.shutdown(wait=False, cancel_futures=True)
            if not self._loop.stop(STOP_DEADLINE_S):
                log.error("a step did not end within %g s; leaving it", STOP_DEADLINE_S)
            files.close()
            stop_metrics()

    async def _measure(self) -> None:
        """Learn how fast this machine is; what goes wrong costs predictions, nothing else."""
        loop = asyncio.get_running_loop()
        try:
            self._speed = await loop.run_in_executor(
                self._loader, self._engine.measure, self._settings.state_dir
            )
        except Exception:
            log.exception("the machine's speed cannot be measured")

    # What it says ----------------------------------------------------------------------

    def _work(self) -> tuple[int, int]:
        loads = [held.runtime for held in self._held.values() if held.runtime is not None]
        progress = self._retired_steps + sum(runtime.load.steps for runtime in loads)
        queued = sum(r.load.active + r.load.waiting or int(r.busy) for r in loads)
        return progress, queued

    def _facts(self) -> StageWorkerFacts:
        loads = [held.runtime.load for held in self._held.values() if held.runtime is not None]
        return StageWorkerFacts(
            device=self._engine.device,
            usable_memory_bytes=self._usable,
            resident_bytes=self._process.memory_info().rss,
            stages=tuple(_timed(held) for held in self._held.values()),
            cache_bytes=sum(load.cache_bytes for load in loads),
            sequences=sum(load.sequences for load in loads),
            prefixes=sum(load.prefixes for load in loads),
            lanes=sum(load.lanes for load in loads),
            waiting=sum(load.waiting for load in loads),
            tokens_per_second=self._rate(sum(load.tokens for load in loads)),
            table=loads[-1].table if loads else "",
            broken_epoch=self._broken[0],
            broken_reason=self._broken[1][:4096],
            memory_bandwidth=self._speed.memory_bandwidth,
            matrix_flops=self._speed.matrix_flops,
            layer_us=self._speed.layer_us,
            mlx_version=self._speed.mlx_version,
        )

    def _rate(self, tokens: int) -> float:
        now = time.monotonic()
        self._rates = [(t, n) for t, n in self._rates if now - t <= RATE_WINDOW_S and n <= tokens]
        self._rates.append((now, tokens))
        first_at, first = self._rates[0]
        return (tokens - first) / (now - first_at) if now - first_at >= 0.5 else 0.0

    # What it hears ---------------------------------------------------------------------

    def _hear(self, beacon: Beacon) -> None:
        if not isinstance(beacon.facts, PlannerFacts):
            return
        self._sources = frozenset(pipeline.source for pipeline in beacon.facts.pipelines)
        wanted = wanted_stages(beacon.facts.pipelines, self._settings.instance, self._endpoint)
        present = {epoch: held.install for epoch, held in self._held.items()}
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
        if self._spare is not None and self._spare.source not in self._sources:
            self._spare = None

    def _remove(self, epoch: int) -> None:
        held = self._held.pop(epoch)
        if held.weights is not None:
            self._spare = held.weights
        runtime = held.runtime
        log.info("epoch %d ends here", epoch, extra={"epoch": epoch})
        if runtime is not None:
            self._retired_steps += runtime.load.steps

            def end() -> None:
                self._loop.runtimes.pop(epoch, None)
                runtime.close("the pipeline is being formed anew")

            self._loop.call(end)
        self._control.publish_now()

    def _resize(self, install: Install) -> None:
        held = self._held[install.pipeline.epoch]
        held.install = install
        if held.runtime is not None:
            runtime = held.runtime
            self._loop.call(lambda: runtime.limit_caches(install.pipeline.cache_tokens))
        log.info(
            "caches may hold %d tokens now", install.pipeline.cache_tokens,
            extra={"epoch": install.pipeline.epoch},
        )  # fmt: skip

    async def _install(self, install: Install) -> None:
        pipeline = install.pipeline
        stage = pipeline.stages[install.position]
        status = StageStatus(pipeline.model, pipeline.epoch, stage.start, stage.stop, "loading")
        held = self._held[pipeline.epoch] = LoadedStage(install, status)
        log.info(
            "loading layers [%d, %d) of %s", stage.start, stage.stop, pipeline.model,
            extra={"epoch": pipeline.epoch},
        )  # fmt: skip
        self._control.publish_now()
        loop = asyncio.get_running_loop()

        def progress(done: int, total: int, fetching: bool = False) -> None:
            if fetching:
                held.status = replace(status, fetched_bytes=done, fetch_bytes=total)
            else:
                held.status = _at(status, "loading", done, total)

        try:
            have, self._spare = self._spare, None
            weights = await loop.run_in_executor(
                self._loader,
                self._engine.read, pipeline.source, stage.start, stage.stop, progress, have,
                self._peers(),
            )  # fmt: skip
            del have
            if self._held.get(pipeline.epoch) is not held:
                self._spare = weights
                return
            held.weights = weights
            begun = held.install
            held.runtime = await self._start_runtime(begun, weights)
            if held.install is not begun:
                self._resize(held.install)
        except PomonaError as error:
            held.status = _at(status, "failed", error=str(error))
            log.error("stage failed to load: %s", error, extra={"epoch": pipeline.epoch})
        except Exception as error:  # a file can break a library in any way; the worker lives
            held.status = _at(status, "failed", error=f"{type(error).__name__}: {error}")
            log.exception("stage failed to load", extra={"epoch": pipeline.epoch})
        else:
            held.status = _at(status, "ready", weights.nbytes, weights.nbytes)
            log.info("ready: %d MB", weights.nbytes >> 20, extra={"epoch": pipeline.epoch})
        self._control.publish_now()

    def _peers(self) -> list[RemoteSource]:
        """The other workers that serve files, those of this node first."""
        others = [
            beacon
            for beacon in self._control.leases.of_service("stage_worker")
            if beacon.name != self._control.identity.name and "files" in beacon.endpoints
        ]
        others.sort(key=lambda beacon: beacon.node != self._settings.node)
        return [PeerSource(beacon.name, beacon.endpoints["files"]) for beacon in others]

    async def _start_runtime(self, install: Install, weights: StageWeights) -> StageRunner:
        """Assemble the stage in the step thread, which alone may use it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[StageRunner] = loop.create_future()

        def start() -> None:
            try:
                runtime = StageRunner(
                    self._control.identity,
                    install.pipeline,
                    install.position,
                    self._engine.assemble(weights, install.pipeline),
                    self._limits,
                    self._settings.link_deadline_s,
                    self._settings.trace_dir,
                )
            except Exception as error:
                loop.call_soon_threadsafe(_settle, done, error)
                return
            if done.done():
                runtime.close("the stage was not taken in time")
                return
            # What is there now stays: looking through it for garbage would cost milliseconds.
            gc.collect()
            gc.freeze()
            self._loop.runtimes[install.pipeline.epoch] = runtime
            loop.call_soon_threadsafe(_settle, done, runtime)

        self._loop.call(start)
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                return await done
        except TimeoutError as error:
            raise PomonaError(
                f"the step thread did not take the stage within {START_DEADLINE_S:g} s: a step "
                "hangs; restart this stage worker"
            ) from error

    def _limits(self, pipeline: Pipeline, stage: Stage) -> SchedulerLimits:
        settings = self._settings
        return SchedulerLimits(
            stages=len(pipeline.stages),
            context_length=pipeline.context_length,
            cache_tokens=pipeline.cache_tokens,
            can_batch=stage.can_batch,
            can_slice=stage.can_slice,
            max_waiting=settings.max_waiting,
            max_running=settings.max_running,
            chunk=settings.prefill_chunk,
            pace=settings.pace,
        )

    def _look_for_failures(self) -> None:
        for epoch, held in self._held.items():
            failure = held.runtime.failure if held.runtime is not None else None
            if failure is not None and epoch > self._broken[0]:
                self._broken = (epoch, failure)
                held.status = _at(held.status, "failed", error=failure)
                self._control.publish_now()


def _settle(done: asyncio.Future[StageRunner], outcome: StageRunner | Exception) -> None:
    """Say how it went, unless nobody waits any more."""
    if done.done():
        return
    if isinstance(outcome, Exception):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)


def _timed(held: LoadedStage) -> StageStatus:
    """The status, with how long steps take now."""
    if held.runtime is None:
        return held.status
    timing = held.runtime.timing
    return replace(
        held.status,
        decode_us=timing.decode_us,
        tail_us=timing.tail_us,
        prefill_us=timing.prefill_us,
        token_us=timing.token_us,
        sequence_tokens=held.runtime.load.sequence_tokens,
    )


def _at(
    status: StageStatus, state: str, done: int = 0, total: int = 0, error: str = ""
) -> StageStatus:
    return StageStatus(
        status.model,
        status.epoch,
        status.start,
        status.stop,
        state,  # type: ignore[arg-type]  # one of the three literals, by the callers above
        done,
        total,
        error[:4096],
    )
