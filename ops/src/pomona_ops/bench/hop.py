"""Cost of a hop: an emulated pipeline against a bare PUSH/PULL ping-pong of the same bytes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import zmq  # the baseline for pomona.transport must not use it

from pomona.messages import codec
from pomona.messages.pipeline import Envelope, Step, StepDone, Tensor
from pomona.messages.sampling import Sampling
from pomona.settings import ServiceSettings, read_settings
from pomona_ops.bench.clusters import running_cluster
from pomona_ops.bench.driver import Driver, active_pipeline
from pomona_ops.bench.numbers import median, percentile
from pomona_ops.cluster.ports import LOOPBACK

WIDTH = 576
MAX_TOKEN_S = 0.001
_ECHO = """
import zmq
context = zmq.Context()
pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
port = pull.bind_to_random_port("tcp://127.0.0.1")
print(port, flush=True)
push.connect("tcp://127.0.0.1:" + input())
back = eval(input())
while True:
    if len(pull.recv_multipart(copy=False)) == 1:
        break
    push.send_multipart(back, copy=False)
"""


@dataclass(frozen=True, slots=True)
class HopCost:
    """Microseconds of a hop in the pipeline and of a bare one, and their ratios."""

    hop_median_us: float
    hop_p99_us: float
    bare_median_us: float
    bare_p99_us: float
    median_ratio: float
    p99_ratio: float


async def measure_hops(model: str, rounds: int = 3, tokens: int = 1000) -> dict[str, Any]:
    """Alternates one user of two emulated stages that hold nothing with the bare hop.

    The times are the head's. The client reads its tokens after the last one is sampled, because
    a third process that wakes for each token would distort the times.
    """
    bare: list[float] = []
    with tempfile.TemporaryDirectory(prefix="pomona-trace-") as folder:
        variables = {"POMONA_STAGE_WORKER_TRACE_DIR": folder}
        async with running_cluster(model, 2, 0.0, variables) as options:
            endpoint = f"tcp://{LOOPBACK}:{options.ports.control_subscribe}"
            pipeline = await active_pipeline(endpoint, options.cluster, 10.0)
            with Driver(pipeline, options.cluster) as driver:
                for _ in range(rounds):
                    await asyncio.sleep(0.5)
                    reply = driver.submit(list(range(1000, 1020)), Sampling(max_tokens=tokens))
                    await asyncio.sleep(tokens * MAX_TOKEN_S)
                    driver.collect([reply])
                    bare += bare_hops(tokens)[20:]
            await asyncio.sleep(1.0)
        ours = _hops(Path(folder) / f"{pipeline.stages[0].worker}.jsonl")
    result = HopCost(
        hop_median_us=median(ours) * 1e6,
        hop_p99_us=percentile(ours, 0.99) * 1e6,
        bare_median_us=median(bare) * 1e6,
        bare_p99_us=percentile(bare, 0.99) * 1e6,
        median_ratio=median(ours) / median(bare),
        p99_ratio=percentile(ours, 0.99) / percentile(bare, 0.99),
    )
    return asdict(result)


def _hops(trace: Path) -> list[float]:
    """Seconds per hop: half of the time between two decode steps of the head."""
    lines = [orjson.loads(line) for line in trace.read_bytes().splitlines()]
    steps = [line for line in lines if line["lane"] is not None]
    return [
        (b["begin"] - a["begin"]) / 2e9
        for a, b in pairwise(steps)
        if a["lane"] == b["lane"] and b["step"] == a["step"] + 1
    ]


def bare_hops(count: int) -> list[float]:
    """Seconds per hop: half of a round trip with a step's bytes there, a step_done's back."""
    request = codec.encode_message(_envelope(_step()), [bytes(4), bytes(4 * WIDTH)])
    back = codec.encode_message(_envelope(_done()), [bytes(24)])
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _ECHO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        push.connect(f"tcp://{LOOPBACK}:{process.stdout.readline().strip()}")
        port = pull.bind_to_random_port(f"tcp://{LOOPBACK}")
        print(port, [bytes(frame) for frame in back], sep="\n", file=process.stdin, flush=True)
        trips: list[float] = []
        for _ in range(count):
            sent_at = time.perf_counter()
            push.send_multipart(request, copy=False)
            pull.recv_multipart(copy=False)
            trips.append((time.perf_counter() - sent_at) / 2)
        push.send(b"")
        process.wait(5)
    finally:
        process.kill()
        process.communicate()
        context.destroy(linger=0)
    return trips


def _step() -> tuple[Any, tuple[Tensor, ...]]:
    tensors = (Tensor("int32", (1, 1)), Tensor("float32", (1, 1, WIDTH)))
    return Step(1000, 1, (1,), True, (), (25000,)), tensors


def _done() -> tuple[Any, tuple[Tensor, ...]]:
    return StepDone(1000, (25000, 25000)), (Tensor("int64", (1, 3)),)


def _envelope(message: tuple[Any, tuple[Tensor, ...]]) -> Envelope:
    body, tensors = message
    settings = read_settings(ServiceSettings)
    name = f"{settings.node}.stage_worker.0"
    version, boot = codec.PROTOCOL_VERSION, "0123456789abcdef"
    return Envelope(version, settings.cluster, name, boot, 1, 1000, 1, body, tensors)
