"""Many streams through the gateway: tokens sampled against tokens delivered, and memory."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import httpx
import psutil

from pomona_ops.bench.clusters import running_cluster
from pomona_ops.cluster.ports import LOOPBACK
from pomona_ops.cluster.processes import ClusterOptions

STREAMS = 64
STAGES = 8
HOLD_MS = 10.0
SAMPLE_S = 5.0
_SAMPLED = re.compile(r"^pomona_stage_tokens_total\{[^}]*\} ([0-9.e+]+)", re.MULTILINE)


async def run_streams(model: str, minutes: float, streams: int = STREAMS) -> dict[str, Any]:
    """Runs streams on an emulated cluster for some minutes; each requests one long answer after
    another."""
    async with running_cluster(model, STAGES, hold_ms=HOLD_MS) as options:
        delivered = [0] * streams
        end = time.monotonic() + minutes * 60
        url = f"http://{LOOPBACK}:{options.ports.gateway}/v1/chat/completions"
        limits = httpx.Limits(max_connections=streams)
        async with (
            httpx.AsyncClient(timeout=60.0, trust_env=False, limits=limits) as client,
            httpx.AsyncClient(timeout=60.0, trust_env=False) as watcher,
        ):
            tasks = [
                asyncio.create_task(_stream(client, url, model, delivered, i, end))
                for i in range(streams)
            ]
            await asyncio.sleep(min(10.0, minutes * 20))
            started_at, sampled_before = time.monotonic(), await _sampled_tokens(watcher, options)
            delivered_before = sum(delivered)
            memory: list[dict[str, float]] = []
            while time.monotonic() < end - SAMPLE_S and not any(t.done() for t in tasks):
                await asyncio.sleep(SAMPLE_S)
                memory.append(_resident_mb())
            seconds = time.monotonic() - started_at
            sampled = await _sampled_tokens(watcher, options) - sampled_before
            arrived = sum(delivered) - delivered_before
            await asyncio.gather(*tasks)
    half = len(memory) // 2
    return {
        "streams": {
            "streams": streams,
            "minutes": minutes,
            "drawn_tokens_per_second": sampled / seconds,
            "delivered_tokens_per_second": arrived / seconds,
            "delivered_over_drawn": arrived / sampled,
        },
        "resident_mb_last_over_first_half": {
            name: _mean(memory[half:], name) / _mean(memory[:half], name)
            for name in (memory[0] if half else {})
        },
    }


async def _stream(
    client: httpx.AsyncClient, url: str, model: str, delivered: list[int], index: int, end: float
) -> None:
    """Requests one long answer after another, and counts the chunks with text."""
    turn = 0
    while time.monotonic() < end:
        turn += 1
        body = {
            "model": model,
            "messages": [{"role": "user", "content": f"stream {index}, turn {turn}"}],
            "max_tokens": 500,
            "stream": True,
            "temperature": 0,
        }
        async with client.stream("POST", url, json=body) as answer:
            answer.raise_for_status()
            async for chunk in answer.aiter_raw():
                delivered[index] += chunk.count(b'"content":')
                if time.monotonic() >= end:
                    return


async def _sampled_tokens(watcher: httpx.AsyncClient, options: ClusterOptions) -> float:
    """Tokens sampled by the tail."""
    port = options.ports.stage_worker_metrics(STAGES - 1)
    text = (await watcher.get(f"http://{LOOPBACK}:{port}/metrics")).text
    return sum(float(value) for value in _SAMPLED.findall(text))


def _resident_mb() -> dict[str, float]:
    """Resident memory of each kind of service, MB."""
    sizes: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            arguments = process.cmdline()
            if "-m" in arguments:
                name = arguments[arguments.index("-m") + 1]
                sizes[name] = sizes.get(name, 0.0) + process.memory_info().rss / 1e6
        except psutil.Error:
            continue
    return sizes


def _mean(samples: list[dict[str, float]], name: str) -> float:
    values = [sample[name] for sample in samples if name in sample]
    return sum(values) / len(values)
