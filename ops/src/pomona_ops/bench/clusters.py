"""Starts and stops the clusters and the mlx-lm baselines of the benchmarks."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson

from pomona import host
from pomona.errors import PomonaError
from pomona.transport import use
from pomona.trust import Trust
from pomona_ops.cluster.blas import blas_threads, stage_worker_environment
from pomona_ops.cluster.cpu_affinity import one_core_each
from pomona_ops.cluster.ports import LOOPBACK, ClusterPorts, is_free
from pomona_ops.cluster.processes import ClusterOptions, ServiceSpec, cluster_options, service_specs
from pomona_ops.cluster.readiness import why_not_ready
from pomona_ops.up.supervisor import Exited, Supervisor, SupervisorEvent

READY_DEADLINE_S = 120.0
FIRST_PORT, LAST_PORT = 20000, 30000


class BenchError(PomonaError):
    """A benchmark cannot run."""


@asynccontextmanager
async def running_cluster(
    model: str,
    stages: int,
    hold_ms: float | None = None,
    worker_environment: dict[str, str] | None = None,
    one_core: bool = False,
    *,
    computes: bool = False,
    draft_model: str = "",
) -> AsyncGenerator[ClusterOptions]:
    """Runs a ready cluster with its own ports and folder until the block ends.

    On Linux each stage worker is pinned to cores of its own; with fewer cores than workers,
    consecutive workers get different cores. Raises BenchError.

    Args:
        hold_ms: run emulated stage workers whose steps take this long.
        worker_environment: additional variables of the stage workers.
        one_core: give each stage worker one core and one BLAS thread, not its share of all.
        computes: with ``hold_ms``, the workers compute the model's steps and then wait.
        draft_model: model that guesses tokens on the head.
    """
    folder = Path(tempfile.mkdtemp(prefix="pomona-bench-"))
    options = replace(
        cluster_options(model, stages, free_ports(stages), pin=_can_pin()),
        state_dir=folder,
    )
    use(Trust.open(folder, options.node, options.cluster))
    double = None if hold_ms is None else "slowed" if computes else "emulated"
    environment = dict(worker_environment or {})
    if hold_ms is not None:
        environment["POMONA_STAGE_WORKER_HOLD_MS"] = str(hold_ms)
    specs = [
        _with_draft_model(spec, draft_model) if spec.name == "planner"
        else _adapted(spec, double, environment, one_core)
        for spec in service_specs(options)
    ]  # fmt: skip
    exits: list[str] = []

    def on_event(event: SupervisorEvent) -> None:
        if isinstance(event, Exited):
            exits.append(f"{event.name} {event.cause} {event.last_error}")

    supervisor = Supervisor(specs, folder / "logs", on_event)
    supervisor.start()
    try:
        await _wait_until_ready(options, exits)
        yield options
        if exits:
            raise BenchError(f"a service exited during the measurement: {exits[0]}")
    finally:
        await supervisor.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _can_pin() -> bool:
    return host.is_linux()


def _adapted(
    spec: ServiceSpec,
    double: str | None,
    worker_environment: dict[str, str],
    one_core: bool,
) -> ServiceSpec:
    """Args: double: module that runs in place of the stage worker."""
    if not spec.name.startswith("stage_worker"):
        return spec
    environment = {**spec.environment, **worker_environment}
    if one_core:
        environment |= blas_threads(1)
        spec = replace(spec, cores=frozenset(sorted(spec.cores)[:1]))
    if double is None:
        return replace(spec, environment=environment)
    if double == "emulated":
        environment["LD_PRELOAD"] = ""
    command = (sys.executable, "-I", "-m", f"pomona_stage_worker.testing.{double}")
    return replace(spec, command=command, environment=environment)


def _with_draft_model(spec: ServiceSpec, source: str) -> ServiceSpec:
    if not source:
        return spec
    environment = {**spec.environment, "POMONA_PLANNER_DRAFT_MODEL": source}
    return replace(spec, environment=environment)


def free_ports(stages: int) -> int:
    """Returns the first port of a free block. Raises BenchError."""
    for first in range(FIRST_PORT + os.getpid() % 50 * 100, LAST_PORT, 100):
        if all(is_free(port) for port in ClusterPorts(first).by_use(stages).values()):
            return first
    raise BenchError(f"no free ports between {FIRST_PORT} and {LAST_PORT}")


async def _wait_until_ready(options: ClusterOptions, exits: Sequence[str]) -> None:
    url = f"http://{LOOPBACK}:{options.ports.gateway}"
    loop = asyncio.get_running_loop()
    end = loop.time() + READY_DEADLINE_S
    reason = ""
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        while loop.time() < end and not exits:
            reason = await why_not_ready(client, url)
            if not reason:
                return
            await asyncio.sleep(0.1)
    cause = exits[0] if exits else f"not ready within {READY_DEADLINE_S:g} s: {reason}"
    raise BenchError(f"the cluster did not start: {cause}")


class Baseline:
    """mlx-lm in a process of its own; see pomona_stage_worker.testing.baseline."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> dict[str, Any]:
        """Generates from all prompts as one batch. Raises BenchError when the process ends."""
        task = {"prompts": [list(prompt) for prompt in prompts], "max_tokens": max_tokens}
        return await self._request(orjson.dumps(task) + b"\n")

    async def _request(self, line: bytes) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        await self._process.stdin.drain()
        async with asyncio.timeout(600):
            answer = await self._process.stdout.readline()
        if not answer:
            raise BenchError("the mlx-lm process ended")
        return orjson.loads(answer)


@asynccontextmanager
async def running_baseline(model: str, threads: int) -> AsyncGenerator[Baseline]:
    """Runs mlx-lm with ``threads`` BLAS threads, on the cores of that many ``one_core`` workers."""
    environment = stage_worker_environment(1) | blas_threads(threads)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        "pomona_stage_worker.testing.baseline",
        model,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    host.pin(process.pid, one_core_each(threads))
    try:
        assert process.stdout is not None
        async with asyncio.timeout(READY_DEADLINE_S):
            await process.stdout.readline()
        yield Baseline(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
